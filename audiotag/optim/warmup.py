"""The linear rise that learning-rate schedules begin with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Warmup:
    """A rise over a number of updates, in stairs.

    Args:
        steps: updates from its beginning to the full rate.
        start: rate at update 0; update `steps` is then the first at the full rate. None takes the first stair
            at update 0 already, and update `steps - 1` is the first at the full rate.
        every: updates that share a stair.
    """

    steps: int
    start: float | None
    every: int

    def rate(self, step: int, low: float = 0.0, peak: float = 1.0) -> float:
        """The rate at an update, between `peak` and the start, or else `low`."""
        if step >= self.steps:
            return peak
        if self.start is None:
            share = min((step // self.every + 1) * self.every / self.steps, 1.0)
        else:
            low, share = self.start, self.last_stair(step) / self.steps
        return low + (peak - low) * share

    def last_stair(self, step: int) -> int:
        """The last update, up to this one, at which the rise set the rate."""
        return self.steps if step >= self.steps else step // self.every * self.every


def read_warmup(section: dict[str, Any], length: int) -> Warmup:
    """The warm-up in a `schedule` section, of which `warmup_ratio` is a share of `length` updates."""
    steps = section["warmup_steps"] or round(section["warmup_ratio"] * length)
    return Warmup(steps, section["warmup_from"], section["warmup_every"])
