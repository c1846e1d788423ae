"""What is said, and kept, of an update that was not made because its numbers were not finite."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from audiotag.distributed import World
from audiotag.errors import describe
from audiotag.training.divergence import StepInput, dump, investigate
from audiotag.training.finitewatch import some_of
from audiotag.training.learner import Learner

logger = logging.getLogger(__name__)


def report_divergence(
    learner: Learner, group: list[StepInput], step: int, *, world: World, folder: Path, config: dict[str, Any]
) -> tuple[str, str]:
    """What went wrong in an update, and how to see it again, in words, the same on every process.

    They must all ask.

    Each process on which something is found writes a file to replay; where nothing is, the first does.

    Args:
        learner: with the weights that the update started from.
        group: the batches of the update on this process.
        step: its number.
        world: the processes.
        folder: where the files go.
        config: the resolved configuration.
    """
    scale = learner.scaler.get_scale()
    finding = None
    try:
        finding = investigate(learner.tagger, learner.loss, group, amp=learner.amp, scale=scale)
    except torch.OutOfMemoryError:  # watched, and not compiled, the update takes more than it did
        logger.error("too little memory to compute the update again here, to see where it went wrong")
    ids = [name for batch in group for name in batch.ids]
    every_id = [name for part in world.gather(ids) for name in part]
    found = [text for text in world.gather(finding and str(finding)) if text]
    path = None
    if finding is not None or (world.is_main and not found):
        path = folder / f"divergence-step-{step}-rank-{world.rank}.pt"
        try:
            dump(
                path,
                learner.tagger,
                learner.loss,
                group,
                config=config,
                step=step,
                scale=scale,
                finding=finding,
                batch_count=learner.batch_count,
            )
        except OSError as error:
            logger.error("nothing to replay was written: %s", describe(error)[0])
            path = None
    paths = [other for other in world.gather(path) if other]
    unknown = f"its loss or gradient was not finite, where first was not found (clips {some_of(every_id)})"
    what = found[0] if found else unknown
    replay = f"; see it again with python -m audiotag.bin.train --replay {paths[0]}" if paths else ""
    return f"update {step} was not made: {what}", replay
