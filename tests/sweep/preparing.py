"""Stage 1 with the watchdog."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from audiotag.configcorpus import Preparation
from tests.sweep.guard import guarded


def prepared(prepare: Callable[..., None], folder: Path, settings: Preparation) -> str:
    """Run stage 1 with the watchdog: "done", or the error that stops it."""

    def run(_: int) -> str:
        prepare(folder / "manifests", settings, num_jobs=1)
        return "done"

    return guarded(run, [0])[0]
