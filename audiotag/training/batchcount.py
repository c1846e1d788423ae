"""The batch count: how far training is, as the schedules inside an encoder go by it.

Such encoders (Zipformer) have a method `set_batch_count(count)`. A count of 1 stands for a batch of
`training.ref_duration_s` seconds, whatever the size of the batches and the number of processes.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from audiotag.config import Config
from audiotag.data.batching import BatchPlan
from audiotag.training.position import Position

LATE = 1e6  # where the schedules of any encoder have come to their ends
REFRESH = 10  # the published rule looks at the count at every tenth batch only


class BatchCount:
    """Counts the audio that is trained on, and turns it into a batch count.

    Args:
        plan: the batches of all epochs.
        config: `training` and `data` say how to count.
        processes: how many train.
    """

    def __init__(self, plan: BatchPlan, config: Config, processes: int) -> None:
        self.plan = plan
        self.rule = config.training.batch_count
        self.ref_duration_s = config.training.ref_duration_s
        self.accumulate = config.training.accumulate
        self.max_duration_s = config.data.max_duration_s
        self.processes = processes
        self._sums: tuple[int, np.ndarray] | None = None

    def value(self, position: Position) -> float:
        """The count before the update that comes next."""
        if self.rule == "trained":
            return position.trained_ms / 1000.0 / self.ref_duration_s
        if self.rule == "updates":
            return float(position.step)
        # A function of the position, so that a resumed run has the same.
        inside = -(-position.batch // (self.processes * self.accumulate))
        batches = (position.step - inside % REFRESH) * self.accumulate
        return batches * self.max_duration_s * self.processes / self.ref_duration_s

    def trained_ms(self, epoch: int, first: int, end: int) -> int:
        """Milliseconds of audio, padding included, in the base batches `first` to `end` of an epoch.

        Whole numbers: their sum does not depend on how many batches an update has, nor on where a run was
        interrupted.

        Args:
            epoch: its number, from 0.
            first, end: base batches; `end` is not among them.
        """
        if self._sums is None or self._sums[0] != epoch:
            padded = np.rint(1000.0 * self.plan.padded_durations(epoch)).astype(np.int64)
            self._sums = (epoch, np.concatenate([[0], np.cumsum(padded)]))
        sums = self._sums[1]
        return int(sums[end] - sums[first])

    def estimate_ms(self, epoch: int, batch: int) -> int:
        """What a run has trained on that did not note it, if all its epochs were like the present one."""
        whole = self.trained_ms(epoch, 0, self.plan.num_base_batches(epoch))
        return epoch * whole + self.trained_ms(epoch, 0, batch)


def set_batch_count(tagger: nn.Module, count: float) -> bool:
    """Tell the encoder, if it wants to know; returns whether it does."""
    setter = getattr(getattr(tagger, "encoder", None), "set_batch_count", None)
    if setter is not None:
        setter(count)
    return setter is not None
