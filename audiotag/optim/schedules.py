"""Learning-rate schedules: functions from the number of the update to a factor on the base rate.

They hold no state, so that a resumed run computes the same rates as an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Schedule = Callable[[int], float]


def build_schedule(section: dict[str, Any], total_steps: int) -> Schedule:
    """The schedule that a config section describes, for a run of `total_steps` updates."""
    shapes = {"constant": constant, "linear": linear, "cosine": cosine}
    warmup_steps = section["warmup_steps"] or round(section["warmup_ratio"] * total_steps)
    shape = shapes[section["name"]](total_steps - warmup_steps, section.get("final_factor", 1.0))
    return lambda step: warm_up(step, warmup_steps) if step < warmup_steps else shape(step - warmup_steps)


def warm_up(step: int, warmup_steps: int) -> float:
    """Rise linearly: update 0 gets 1/n and update n-1 gets 1, so that no update is lost to a rate of 0."""
    return (step + 1) / warmup_steps


def constant(steps: int, final_factor: float) -> Schedule:
    """The base rate throughout."""
    return lambda step: 1.0


def linear(steps: int, final_factor: float) -> Schedule:
    """A straight line from 1 to `final_factor` over the given number of updates."""
    return lambda step: 1.0 - (1.0 - final_factor) * progress(step, steps)


def cosine(steps: int, final_factor: float) -> Schedule:
    """Half a cosine from 1 to `final_factor` over the given number of updates."""
    return lambda step: (
        final_factor + (1.0 - final_factor) * 0.5 * (1.0 + math.cos(math.pi * progress(step, steps)))
    )


def progress(step: int, steps: int) -> float:
    """Share of the updates that are done, at most 1."""
    return min(step / steps, 1.0) if steps > 0 else 1.0
