"""Learning-rate schedules against numbers worked out by hand."""

from __future__ import annotations

import pytest

from audiotag.optim.schedules import build_schedule


def rates(total, **section):
    schedule = build_schedule({"warmup_steps": 0, "warmup_ratio": 0.0, **section}, total)
    return [schedule(step) for step in range(total + 1)]


def test_warm_up_rises_in_equal_steps_to_the_base_rate():
    assert rates(6, name="constant", warmup_steps=4) == [0.25, 0.5, 0.75, 1, 1, 1, 1]


def test_warm_up_ratio_is_a_share_of_all_updates():
    assert rates(8, name="constant", warmup_ratio=0.25) == rates(8, name="constant", warmup_steps=2)


def test_linear_reaches_its_final_factor_at_the_last_update():
    assert rates(4, name="linear", final_factor=0.2) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert rates(6, name="linear", final_factor=0.0, warmup_steps=2)[2:] == pytest.approx(
        [1, 0.75, 0.5, 0.25, 0]
    )


def test_cosine_is_half_way_in_the_middle():
    values = rates(4, name="cosine", final_factor=0.0)
    assert values == pytest.approx([1, 0.8535533906, 0.5, 0.1464466094, 0], abs=1e-9)
    assert rates(4, name="cosine", final_factor=0.5)[2] == pytest.approx(0.75)


def test_rates_stay_at_the_end_value_beyond_the_last_update():
    schedule = build_schedule(
        {"name": "linear", "warmup_steps": 0, "warmup_ratio": 0.0, "final_factor": 0.1}, 10
    )
    assert schedule(500) == pytest.approx(0.1)
