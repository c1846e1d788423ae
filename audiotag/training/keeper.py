"""Keeps the checkpoints of a run: writes new ones in the background and deletes those no longer wanted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from audiotag.distributed import World
from audiotag.errors import describe
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
        position = dict(state["position"])

        def then() -> None:
            self.newest = path.name
            shown = "; best {metric} {value:.4f} of {file}".format(**best) if best else ""
            logger.info("saved %s%s", path, shown)
            try:
                self._drop_old(ranking, position)
            except OSError as error:
                logger.warning("an old checkpoint could not be deleted: %s", describe(error)[0])

        self._writer.submit(path, {**state, **self.record}, then)

    def finish(self) -> None:
        """Wait until all is on disk, on every process."""
        try:
            if self.world.is_main:
                self._writer.finish()
        finally:
            self.world.barrier()

    def _drop_old(self, ranking: list[str], position: dict[str, Any]) -> None:
        # Files of what is yet to come are damaged ones, which were passed over when the run went on.
        epochs = [epoch for epoch in list_epochs(self.folder) if epoch <= position["epoch"]]
        steps = [step for step in list_steps(self.folder) if step <= position["step"]]
        for name in self.retention.superfluous(epochs, steps, ranking):
            (self.folder / name).unlink(missing_ok=True)
