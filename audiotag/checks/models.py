"""The models that a training starts from or learns from: whether they are there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from audiotag.checks.finding import Finding, failed, ok
from audiotag.config import Config
from audiotag.distillation.teachers import locate_teacher
from audiotag.errors import AudiotagError
from audiotag.training.checkpoint import list_epochs, list_steps
from audiotag.training.starting import locate_start

PURPOSES = {"start": "start from", "teacher": "learn from"}


def models_to_find(config: Config) -> list[tuple[str, Callable[[], Path]]]:
    """Each of them by its role, and what finds it; those of the hub are fetched, as training does."""
    models: list[tuple[str, Callable[[], Path]]] = []
    if config.init.model is not None:
        models.append(("start", partial(locate_start, config.init)))
    if config.distillation is not None:
        models += [("teacher", partial(locate_teacher, name)) for name in config.distillation.teachers]
    return models


def check_models(config: Config, exp_dir: Path) -> list[Finding]:
    """Find each of them."""
    findings = []
    # A run that goes on has its own weights.
    goes_on = bool(list_epochs(exp_dir) or list_steps(exp_dir))
    for role, locate in models_to_find(config):
        if role == "start" and goes_on:
            continue
        try:
            findings.append(ok(role, f"the model to {PURPOSES[role]} is {locate()}"))
        except AudiotagError as error:
            findings.append(failed(role, error))
    return findings
