"""Going back to a checkpoint: the model, what changes its weights, and the place in the plan of batches."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from audiotag.data.batching import BatchPlan
from audiotag.distributed import World
from audiotag.training.batchcount import BatchCount
from audiotag.training.checkpoint import load_weights
from audiotag.training.encoderstate import restore_training_state
from audiotag.training.learner import Learner
from audiotag.training.position import Position
from audiotag.training.scoreboard import Scoreboard
from audiotag.training.weightaverages import WeightAverages

logger = logging.getLogger(__name__)


def restore_parts(
    state: dict[str, Any],
    source: Path,
    learner: Learner,
    averages: WeightAverages,
    scoreboard: Scoreboard,
    world: World,
) -> None:
    """Bring the parts of a run to where a checkpoint was written; they, and nothing on disk, are changed.

    Args:
        state: the checkpoint.
        source: its file, for messages.
        learner, averages, scoreboard: of the run that goes on.
        world: its processes.
    """
    load_weights(learner.tagger, state["model"], source)
    learner.load_state_dict(state)
    restore_training_state(learner.tagger, state, world)
    averages.load_state_dict(state.get("averages", {}))
    scoreboard.restore(state)


def restored_position(state: dict[str, Any], plan: BatchPlan, batch_count: BatchCount) -> Position:
    """Where the run goes on in a plan, which may be another one than that of the checkpoint."""
    stored = state["position"]
    position = Position(
        epoch=stored["epoch"],
        batch=stored["batch"],
        step=stored["step"],
        validated_step=stored.get("validated_step", stored["step"]),
        trained_ms=stored.get("trained_ms", 0),
    )
    if "trained_ms" not in stored:
        position.trained_ms = batch_count.estimate_ms(position.epoch, position.batch)
    before = stored.get("base_batches")
    if position.batch == 0 or before is None:
        return position
    now = plan.num_base_batches(position.epoch)
    if now != before:
        position.batch = round(position.batch * now / before)
        logger.warning(
            "epoch %d has %d batches over all processes now, %d when the checkpoint was written: it goes on "
            "behind the same share of them, so that some of its clips come twice and others not at all",
            position.epoch + 1,
            now,
            before,
        )
    return position
