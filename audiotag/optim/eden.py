"""Eden: a rate that falls with the root of the updates and with the root of the epochs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Eden:
    """icefall's schedule for ScaledAdam.

    As there, `batch` is the number of the update that is about to be made, from 1 on, and `epoch` that of
    the epochs that are done. So updates count as they came, those that fp16 skipped included, by however many
    processes: the rate does not jump where a run goes on with others, while other schedules go on as if there
    had always been so many.

    Args:
        lr_batches: updates from about which on the rate falls.
        lr_epochs: epochs likewise.
        warmup_steps: updates of a linear rise that multiplies all this.
        warmup_from: where it begins.
        steps_per_epoch: updates of an epoch, for a run of even epochs, see `__call__`.
    """

    lr_batches: float
    lr_epochs: float
    warmup_steps: int
    warmup_from: float
    steps_per_epoch: int

    def at(self, batch: int, epoch: int) -> float:
        """The factor on the base rate."""
        by_batch = (1.0 + (batch / self.lr_batches) ** 2) ** -0.25
        by_epoch = (1.0 + (epoch / self.lr_epochs) ** 2) ** -0.25
        return by_batch * by_epoch * self.warmup(batch)

    def warmup(self, batch: int) -> float:
        """The rise at the start."""
        if batch >= self.warmup_steps:
            return 1.0
        return self.warmup_from + (1.0 - self.warmup_from) * batch / self.warmup_steps

    def __call__(self, step: int) -> float:
        """The factor at update `step`, from 0, of a run whose epochs all have `steps_per_epoch`."""
        return self.at(step + 1, step // self.steps_per_epoch)
