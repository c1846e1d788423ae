"""Learning-rate schedules against numbers worked out by hand, against torch's and those of `transformers`."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler
from transformers.optimization import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from audiotag.errors import ConfigError
from audiotag.optim.schedules import build_schedule
from tests.optim.sections import schedule_section


def rates(total, steps_per_epoch=1, **section):
    schedule = build_schedule(schedule_section(**section), total, steps_per_epoch)
    return [schedule(step) for step in range(total + 1)]


def rates_of(make_scheduler, count):
    """What a scheduler object with a state gives in the first `count` steps, for a base rate of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer)
    values = []
    for _ in range(count):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_warm_up_rises_in_equal_steps_to_the_base_rate():
    assert rates(6, name="constant", warmup_steps=4) == [0.25, 0.5, 0.75, 1, 1, 1, 1]


def test_warm_up_from_a_given_rate_has_it_at_update_0():
    assert rates(6, name="constant", warmup_steps=4, warmup_from=0.2) == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1, 1, 1]
    )


def test_warm_up_in_stairs():
    stairs = {"name": "constant", "warmup_steps": 6, "warmup_every": 3}
    assert rates(7, **stairs) == [0.5, 0.5, 0.5, 1, 1, 1, 1, 1]
    assert rates(7, **stairs, warmup_from=0.0) == [0, 0, 0, 0.5, 0.5, 0.5, 1, 1]
    # Stairs that do not fit end at the base rate nevertheless.
    assert rates(6, name="constant", warmup_steps=5, warmup_every=3) == [0.6, 0.6, 0.6, 1, 1, 1, 1]


EVERY_NAME = {
    "constant": {},
    "linear": {"final_factor": 0.1},
    "cosine": {"final_factor": 0.1},
    "cosine_restarts": {"first_cycle_steps": 40, "cycle_factor": 1.5, "peak_decay": 0.5, "final_factor": 0.1},
    "multistep": {"milestones": [2, 5], "decay": 0.5},
    "exponential": {"decay": 0.9, "final_factor": 0.1},
}


@pytest.mark.parametrize("name", EVERY_NAME)
def test_warm_up_ratio_is_a_share_of_all_updates_or_of_the_first_cycle(name):
    by_steps = rates(40, 5, name=name, **EVERY_NAME[name], warmup_steps=10)
    assert rates(40, 5, name=name, **EVERY_NAME[name], warmup_ratio=0.25) == by_steps
    assert by_steps != rates(40, 5, name=name, **EVERY_NAME[name])
    # Steps win over a ratio.
    assert rates(40, 5, name=name, **EVERY_NAME[name], warmup_steps=10, warmup_ratio=0.5) == by_steps


@pytest.mark.parametrize("name", EVERY_NAME)
@settings(max_examples=40, deadline=None)
@given(
    steps_per_epoch=st.integers(1, 9),
    epochs=st.integers(1, 9),
    warmup=st.integers(0, 39),
    start=st.one_of(st.none(), st.floats(0, 1)),
    every=st.integers(1, 7),
)
def test_rates_lie_between_0_and_1_rise_in_the_warm_up_and_fall_after(
    name, steps_per_epoch, epochs, warmup, start, every
):
    total = steps_per_epoch * epochs
    section = schedule_section(
        name=name, **EVERY_NAME[name], warmup_steps=warmup, warmup_from=start, warmup_every=every
    )
    schedule = build_schedule(section, total, steps_per_epoch)
    # Asked in any order, and beyond the end: a rate depends on nothing but the number of the update.
    values = {step: schedule(step) for step in reversed(range(total + 20))}
    assert all(0.0 <= value <= 1.0 for value in values.values())
    pairs = list(itertools.pairwise(values[step] for step in range(total + 20)))
    if name in ("constant", "linear", "cosine"):
        assert all(before <= after for before, after in pairs[: max(warmup - 1, 0)])
    if name != "cosine_restarts":
        assert all(before >= after for before, after in pairs[warmup:])


def test_linear_reaches_its_final_factor_at_the_last_update():
    assert rates(4, name="linear", final_factor=0.2) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert rates(6, name="linear", final_factor=0.0, warmup_steps=2)[2:] == pytest.approx(
        [1, 0.75, 0.5, 0.25, 0]
    )


def test_cosine_is_half_way_in_the_middle():
    values = rates(4, name="cosine", final_factor=0.0)
    assert values == pytest.approx([1, 0.8535533906, 0.5, 0.1464466094, 0], abs=1e-9)
    assert rates(4, name="cosine", final_factor=0.5)[2] == pytest.approx(0.75)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_rates_stay_at_the_end_value_beyond_the_last_update(name):
    schedule = build_schedule(schedule_section(name=name, final_factor=0.1), 10, 10)
    assert schedule(500) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_warm_up_longer_than_the_run_only_rises(name):
    assert rates(3, name=name, warmup_steps=4)[:3] == [0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("linear", get_linear_schedule_with_warmup),
        ("cosine", get_cosine_schedule_with_warmup),
        ("constant", lambda optimizer, warmup, total: get_constant_schedule_with_warmup(optimizer, warmup)),
    ],
)
def test_equal_to_transformers_when_warmed_up_from_zero(name, make):
    theirs = rates_of(lambda optimizer: make(optimizer, 30, 200), 201)
    assert rates(200, name=name, warmup_steps=30, warmup_from=0.0) == pytest.approx(theirs, abs=1e-12)


def test_our_default_warm_up_is_one_update_ahead_of_transformers():
    theirs = rates_of(lambda optimizer: get_constant_schedule_with_warmup(optimizer, 30), 51)
    assert rates(49, name="constant", warmup_steps=30) == pytest.approx(theirs[1:], abs=1e-12)


@pytest.mark.parametrize(
    ("section", "make"),
    [
        (
            {"name": "constant", "warmup_steps": 12, "warmup_from": 0.25},
            lambda optimizer: lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=12),
        ),
        (
            {"name": "linear", "final_factor": 0.1},
            lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, end_factor=0.1, total_iters=60),
        ),
        (
            {"name": "cosine", "final_factor": 0.1},
            lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 60, eta_min=0.1),
        ),
        (
            {"name": "cosine_restarts", "first_cycle_steps": 9, "cycle_factor": 2, "final_factor": 0.1},
            lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 9, 2, eta_min=0.1),
        ),
        (
            {"name": "exponential", "decay": 0.97, "per": "step"},
            lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.97),
        ),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "torch",
)
def test_equal_to_torch(section, make):
    theirs = rates_of(make, 60)
    assert rates(60, 7, **section)[:60] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(
    ("section", "make"),
    [
        (
            {"name": "multistep", "milestones": [7, 2, 3], "decay": 0.3},
            lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 3, 7], 0.3),
        ),
        (
            {"name": "exponential", "decay": 0.8},
            lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.8),
        ),
    ],
    ids=["multistep", "exponential"],
)
def test_schedules_of_epochs_are_equal_to_torch_stepped_after_each(section, make):
    by_epoch = rates_of(make, 10)
    expected = [rate for rate in by_epoch for _ in range(6)]
    assert rates(60, 6, **section)[:60] == pytest.approx(expected, abs=1e-12)


def test_evenly_spaced_milestones_are_those_of_a_list():
    def spaced(**keys):
        return rates(100, 5, name="multistep", **keys)

    assert spaced(first_milestone=3, milestone_every=4) == spaced(milestones=[3, 7, 11, 15, 19])
    assert spaced(first_milestone=3, milestone_every=4, last_milestone=11) == spaced(milestones=[3, 7, 11])


def test_milestones_inside_the_warm_up_lower_it_and_stay():
    section = {"name": "multistep", "milestones": [2], "decay": 0.5, "warmup_steps": 8, "warmup_from": 0.0}
    assert rates(10, 2, **section) == [0, 1 / 8, 2 / 8, 3 / 8, 2 / 8, 2.5 / 8, 3 / 8, 3.5 / 8, 0.5, 0.5, 0.5]


def test_exponential_counts_updates_from_the_end_of_the_warm_up():
    section = {"name": "exponential", "per": "step", "decay": 0.5, "final_factor": 0.2, "warmup_steps": 2}
    assert rates(5, **section) == [0.5, 1, 1, 0.5, 0.25, 0.2]


def test_exponential_by_epochs_has_a_lowest_rate():
    assert rates(6, 2, name="exponential", decay=0.5, final_factor=0.3) == [1, 1, 0.5, 0.5, 0.3, 0.3, 0.3]


def test_cycles_grow_by_their_cosine_and_their_peaks_fall():
    section = {"name": "cosine_restarts", "first_cycle_steps": 6, "warmup_steps": 2, "final_factor": 0.1}
    values = rates(27, **section, cycle_factor=2, peak_decay=0.5)
    # Cycles of 2 + 4, 2 + 8 and 2 + 16 updates, with peaks of 1, 0.5 and 0.25.
    assert values[:3] == pytest.approx([0.55, 1, 1])
    assert values[4] == pytest.approx(0.55)
    assert values[6:9] == pytest.approx([0.3, 0.5, 0.5])
    assert values[12] == pytest.approx(0.3)
    assert values[16:19] == pytest.approx([0.175, 0.25, 0.25])
    assert values[26] == pytest.approx(0.175)


def test_peaks_do_not_fall_below_the_final_factor():
    values = rates(40, name="cosine_restarts", first_cycle_steps=4, peak_decay=0.1, final_factor=0.05)
    assert values[8:] == pytest.approx([0.05] * 33)


def test_the_last_cycle_ends_at_the_final_factor():
    section = schedule_section(name="cosine_restarts", first_cycle_steps=10, final_factor=0.1)
    schedule = build_schedule(section, 20, 5)
    assert schedule(19) > 0.1
    assert [schedule(step) for step in (20, 25, 400)] == pytest.approx([0.1, 0.1, 0.1])


def test_the_first_cycle_may_be_given_in_epochs():
    by_steps = rates(40, 8, name="cosine_restarts", first_cycle_steps=12)
    assert rates(40, 8, name="cosine_restarts", first_cycle_epochs=1.5) == by_steps


def test_a_warm_up_that_fills_a_cycle_is_refused():
    section = schedule_section(name="cosine_restarts", first_cycle_epochs=2, warmup_steps=10)
    with pytest.raises(ConfigError, match="a warm-up of 10 updates fills the first cycle of 10"):
        build_schedule(section, 100, 5)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "multistep"}, "one of milestones and first_milestone is needed"),
        ({"name": "multistep", "milestones": [1], "first_milestone": 2}, "and only one"),
        ({"name": "multistep", "milestones": [1], "last_milestone": 2}, "which is missing"),
        (
            {"name": "multistep", "first_milestone": 3, "last_milestone": 2},
            "2 comes before first_milestone 3",
        ),
        ({"name": "cosine_restarts"}, "one of first_cycle_steps and first_cycle_epochs is needed"),
        ({"name": "cosine_restarts", "first_cycle_steps": 5, "first_cycle_epochs": 5}, "and only one"),
        (
            {"name": "cosine_restarts", "first_cycle_steps": 5, "cycle_factor": 0.5},
            "greater than or equal to 1",
        ),
        ({"name": "exponential", "decay": 1.5}, "less than or equal to 1"),
    ],
)
def test_contradictions_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        schedule_section(**section)
