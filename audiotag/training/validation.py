"""Validation between updates: every clip of the valid split once, spread over the processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from audiotag.distributed import World
from audiotag.errors import TrainingError
from audiotag.evaluation.metrics import Metrics, compute_metrics
from audiotag.evaluation.scoring import ScoringStopped, gather_scores, score_batches
from audiotag.tagger import Tagger
from audiotag.training.tensorboard import RunWriter

logger = logging.getLogger(__name__)

# What the log line names; TensorBoard and the checkpoint have all metrics.
SHOWN = ("loss", "mAP", "mAUC", "d_prime", "accuracy")


class Validation:
    """Measures a tagger on the valid split.

    Args:
        loader: gives this process' batches, each time anew.
        world: the processes.
        writer: TensorBoard.
        amp_dtype: precision of the forward pass; None for float32.
        loss: the name of the one that the tagger is trained with.
        zero_without_positives: how mAP counts classes without positives, as in evaluation.
    """

    def __init__(
        self,
        loader: Callable[[], Any],
        world: World,
        writer: RunWriter,
        *,
        amp_dtype: Any = None,
        loss: str = "bce",
        zero_without_positives: bool = False,
    ) -> None:
        self.loader = loader
        self.world = world
        self.amp_dtype = amp_dtype
        self.loss = loss
        self.zero_without_positives = zero_without_positives
        self.writer = writer

    def __call__(
        self, tagger: Tagger, epoch: int, step: int, should_stop: Callable[[], bool]
    ) -> dict[str, float | None] | None:
        """The metrics, on every process; None where a process was asked to stop meanwhile."""
        start = time.monotonic()
        try:
            own = score_batches(
                tagger,
                self.loader(),
                device=self.world.device,
                amp_dtype=self.amp_dtype,
                loss=self.loss,
                should_stop=should_stop,
            )
        except ScoringStopped:
            own = None
        if not all(self.world.gather(own is not None)):
            return None
        scores = gather_scores(own, self.world)
        metrics: Metrics | None = None
        finite = scores is None or bool(np.isfinite(scores.logits).all())
        if self.world.is_main and finite:
            metrics = compute_metrics(
                scores.logits,
                scores.labels,
                ids=scores.ids,
                zero_without_positives=self.zero_without_positives,
            )
        finite, summary = self.world.gather((finite, metrics and metrics.summary))[0]
        if not finite:
            raise TrainingError(
                f"the model's output on valid is not finite after update {step}; try a lower optimizer.lr, a "
                "longer warm-up, training.clip_norm, or amp bf16 in place of fp16"
            )
        if metrics is not None:
            self.writer.validation(metrics, tagger.labels, step)
            shown = ", ".join(
                f"{name} {summary[name]:.4f}" for name in SHOWN if summary.get(name) is not None
            )
            logger.info(
                "epoch %d validation on %d clips in %.1f s: %s",
                epoch,
                len(scores.ids),
                time.monotonic() - start,
                shown,
            )
        return summary
