"""Learning-rate schedules: functions from the number of the update to a factor on the base rate.

They hold no state, so that a resumed run computes the same rates as an undisturbed one. Updates are counted
from 0; an epoch ends with each `steps_per_epoch` of them. Where libraries differ by one:

- Linear, cosine and exponential `per: step` begin when the warm-up ends. Milestones and exponential
  `per: epoch` count all epochs, as a scheduler that is stepped after each of them does, and the warm-up
  multiplies.
- Linear and cosine arrive at their end at the update after the last, as in torch and `transformers`.
- By default the first of n warm-up updates gets 1/n and the last the base rate, so that none is lost to a
  rate of 0. With `warmup_from: 0` rates are those of `transformers`, whose first is 0; it rounds a warm-up
  ratio up to whole updates, which here is rounded to the nearest.

`eden.py` has a schedule that goes by the updates that were really made.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from audiotag.errors import ConfigError
from audiotag.optim.eden import Eden
from audiotag.optim.warmup import Warmup, read_warmup

Schedule = Callable[[int], float]


def build_schedule(section: dict[str, Any], total_steps: int, steps_per_epoch: int) -> Schedule:
    """The schedule that a config section describes.

    Args:
        section: the `schedule` section.
        total_steps: updates of the whole run.
        steps_per_epoch: updates of one epoch.
    """
    return SCHEDULES[section["name"]](section, total_steps, steps_per_epoch)


def constant(section: dict[str, Any], total_steps: int, steps_per_epoch: int) -> Schedule:
    """Warm-up, then the base rate."""
    return read_warmup(section, total_steps).rate


def linear(section: dict[str, Any], total_steps: int, steps_per_epoch: int) -> Schedule:
    """Warm-up, then a straight line to `final_factor`."""
    warmup, final = read_warmup(section, total_steps), section["final_factor"]
    steps = total_steps - warmup.steps
    return after(warmup, lambda step: 1.0 - (1.0 - final) * progress(step, steps))


def cosine(section: dict[str, Any], total_steps: int, steps_per_epoch: int) -> Schedule:
    """Warm-up, then half a cosine to `final_factor`."""
    warmup, final = read_warmup(section, total_steps), section["final_factor"]
    steps = total_steps - warmup.steps
    return after(warmup, lambda step: half_cosine(progress(step, steps), final))


def cosine_restarts(section: dict[str, Any], total_steps: int, steps_per_epoch: int) -> Schedule:
    """Cycles, each a warm-up and half a cosine to `final_factor`; beyond the run the last cycle's end."""
    first = section["first_cycle_steps"] or max(1, round(section["first_cycle_epochs"] * steps_per_epoch))
    warmup, final = read_warmup(section, first), section["final_factor"]
    if warmup.steps >= first:
        raise ConfigError(
            f"schedule: a warm-up of {warmup.steps} updates fills the first cycle of {first}: lower "
            "schedule.warmup_steps, or take a longer first cycle"
        )
    # Updates at which cycles begin, the last entry ends one; only the cosine's part of a cycle grows.
    starts, fall = [0], first - warmup.steps
    while starts[-1] < max(total_steps, 1):
        starts.append(starts[-1] + warmup.steps + fall)
        fall = int(fall * section["cycle_factor"])

    def rate(step: int) -> float:
        cycle = min(bisect_right(starts, step), len(starts) - 1) - 1
        peak = max(section["peak_decay"] ** cycle, final)
        inside = step - starts[cycle]
        if inside < warmup.steps:
            return warmup.rate(inside, low=final, peak=peak)
        steps = starts[cycle + 1] - starts[cycle] - warmup.steps
        return half_cosine(progress(inside - warmup.steps, steps), final, peak)

    return rate


def multistep(section: dict[str, Any], total_steps: int, steps_per_epoch: int) -> Schedule:
    """A rate that falls by `decay` at the end of each milestone epoch, times the warm-up.

    The AST's original code lowers, at the end of an epoch, whatever the rate is, while its warm-up writes the
    undiminished rate at each stair: there a milestone holds until the next stair (`warmup_undoes_decay`).
    """
    warmup, decay = read_warmup(section, total_steps), section["decay"]
    milestones = sorted(section["milestones"])
    if section["first_milestone"] is not None:
        last = section["last_milestone"] or math.ceil(total_steps / steps_per_epoch)
        milestones = list(range(section["first_milestone"], last + 1, section["milestone_every"]))

    def passed(step: int) -> int:
        return bisect_right(milestones, step // steps_per_epoch)

    def rate(step: int) -> float:
        undone = passed(warmup.last_stair(step)) if section["warmup_undoes_decay"] else 0
        return warmup.rate(step) * decay ** (passed(step) - undone)

    return rate


def exponential(section: dict[str, Any], total_steps: int, steps_per_epoch: int) -> Schedule:
    """A rate that falls by `decay` at the end of each epoch or after each update, down to `final_factor`."""
    warmup, decay, final = read_warmup(section, total_steps), section["decay"], section["final_factor"]
    if section["per"] == "step":
        return after(warmup, lambda step: max(decay**step, final))
    return lambda step: warmup.rate(step) * max(decay ** (step // steps_per_epoch), final)


def eden(section: dict[str, Any], total_steps: int, steps_per_epoch: int) -> Schedule:
    """Roots of the updates and of the epochs."""
    settings = {key: value for key, value in section.items() if key != "name"}
    return Eden(**settings, steps_per_epoch=steps_per_epoch)


def after(warmup: Warmup, shape: Schedule) -> Schedule:
    """The warm-up, then a shape that counts from its end."""
    return lambda step: warmup.rate(step) if step < warmup.steps else shape(step - warmup.steps)


def half_cosine(done: float, low: float, peak: float = 1.0) -> float:
    """From `peak` to `low` as `done` goes from 0 to 1."""
    return low + (peak - low) * 0.5 * (1.0 + math.cos(math.pi * done))


def progress(step: int, steps: int) -> float:
    """Share of the updates that are done, at most 1."""
    return min(step / steps, 1.0) if steps > 0 else 1.0


SCHEDULES = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "multistep": multistep,
    "exponential": exponential,
    "eden": eden,
}
