"""Keeps the checkpoints of a run: writes new ones in the background and deletes those no longer wanted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from audiotag.distributed import World
from audiotag.training.checkpoint import list_epochs, list_steps
from audiotag.training.checkpointwriter import CheckpointWriter
from audiotag.training.retention import Retention
from audiotag.training.scoreboard import Scoreboard

logger = logging.getLogger(__name__)


class CheckpointKeeper:
    """The checkpoints in a run's folder, which the main process writes.

    Args:
        folder: the run's folder.
        world: the processes.
        retention: which checkpoints stay.
        record: what every checkpoint carries besides the state: config, labels, coverage, provenance.
        newest: name of the checkpoint that the run goes on from; None at its start.
    """

    def __init__(
        self,
        folder: Path,
        world: World,
        retention: Retention,
        record: dict[str, Any],
        newest: str | None = None,
    ) -> None:
        self.folder = folder
        self.world = world
        self.retention = retention
        self.record = record
        self.newest = newest
        self._writer = CheckpointWriter()

    def save(self, path: Path, state: dict[str, Any], scoreboard: Scoreboard) -> None:
        """Have a checkpoint written, and then those deleted that it makes superfluous."""
        best, ranking = scoreboard.best, scoreboard.ranking()

        def then() -> None:
            self.newest = path.name
            shown = "; best {metric} {value:.4f} of {file}".format(**best) if best else ""
            logger.info("saved %s%s", path, shown)
            self._drop_old(ranking)

        self._writer.submit(path, {**state, **self.record}, then)

    def finish(self) -> None:
        """Wait until all is on disk, on every process."""
        if self.world.is_main:
            self._writer.finish()
        self.world.barrier()

    def _drop_old(self, ranking: list[str]) -> None:
        epochs, steps = list_epochs(self.folder), list_steps(self.folder)
        for name in self.retention.superfluous(epochs, steps, ranking):
            (self.folder / name).unlink(missing_ok=True)
