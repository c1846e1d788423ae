"""The models that a training starts from or learns from: whether they are there, and of no other fold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from audiotag.checks.finding import Finding, failed, ok
from audiotag.config import Config
from audiotag.distillation.teachers import find_teacher
from audiotag.errors import AudiotagError
from audiotag.training.checkpoint import list_epochs, list_steps
from audiotag.training.otherfolds import Fold, fold_here
from audiotag.training.starting import find_start

PURPOSES = {"start": "start from", "teacher": "learn from"}


def models_to_find(config: Config, data_dir: Path | None = None) -> list[tuple[str, Callable[[], Path]]]:
    """Each of them by its role, and what finds it; those of the hub are fetched, as training does."""

    def here() -> Fold | None:
        return fold_here(config, data_dir)

    models: list[tuple[str, Callable[[], Path]]] = []
    if config.init.model is not None:
        models.append(("start", lambda: find_start(config.init, here())))
    if config.distillation is not None:
        for name in config.distillation.teachers:
            models.append(("teacher", lambda name=name: find_teacher(name, here())))
    return models


def check_models(config: Config, data_dir: Path, exp_dir: Path) -> list[Finding]:
    """Find each of them, and refuse those of another fold than that of the data."""
    findings = []
    # A run that goes on has its own weights.
    goes_on = bool(list_epochs(exp_dir) or list_steps(exp_dir))
    for role, locate in models_to_find(config, data_dir):
        if role == "start" and goes_on:
            continue
        try:
            findings.append(ok(role, f"the model to {PURPOSES[role]} is {locate()}"))
        except AudiotagError as error:
            findings.append(failed(role, error))
    return findings
