"""The models that a training starts from or learns from: whether they are there."""

from __future__ import annotations

from pathlib import Path

from audiotag.checks.finding import Finding, failed, ok
from audiotag.config import Config
from audiotag.distillation.teachers import locate_teacher
from audiotag.errors import AudiotagError
from audiotag.training.checkpoint import list_epochs, list_steps
from audiotag.training.starting import locate_start


def check_models(config: Config, exp_dir: Path) -> list[Finding]:
    """Find each of them; those of the hub are fetched, as training would fetch them."""
    findings = []
    # A run that goes on has its own weights.
    if config.init.model is not None and not (list_epochs(exp_dir) or list_steps(exp_dir)):
        try:
            findings.append(ok("start", f"the model to start from is {locate_start(config.init)}"))
        except AudiotagError as error:
            findings.append(failed("start", error))
    for teacher in config.distillation.teachers if config.distillation else ():
        try:
            findings.append(ok("teacher", f"the model to learn from is {locate_teacher(teacher)}"))
        except AudiotagError as error:
            findings.append(failed("teacher", error))
    return findings
