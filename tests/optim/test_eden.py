"""Eden against the published rates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audiotag.optim.schedules import build_schedule
from tests.optim.sections import schedule_section

VECTORS = Path(__file__).parents[1] / "data" / "zipformer" / "schedules.json"


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text())["eden"])
def test_the_published_rates(case):
    section = schedule_section(
        name="eden",
        lr_batches=case["lr_batches"],
        lr_epochs=case["lr_epochs"],
        warmup_steps=case["warmup_batches"],
        warmup_from=case["warmup_start"],
    )
    schedule = build_schedule(section, total_steps=1, steps_per_epoch=1)
    for epoch, row in zip(case["epochs"], case["lr_rows_by_epoch"], strict=True):
        for batch, lr in zip(case["batches"], row, strict=True):
            assert case["base_lr"] * schedule.at(batch, epoch) == pytest.approx(lr, rel=1e-12)


def test_updates_count_from_1_and_epochs_from_0():
    schedule = build_schedule(schedule_section(name="eden"), total_steps=1000, steps_per_epoch=100)
    assert schedule(0) == schedule.at(1, 0) == pytest.approx(0.501, abs=1e-6)
    assert schedule(99) == schedule.at(100, 0)
    assert schedule(100) == schedule.at(101, 1)


def test_without_a_warm_up_it_begins_at_the_base_rate():
    schedule = build_schedule(schedule_section(name="eden", warmup_steps=0), 10, 10)
    assert schedule(0) == pytest.approx(1.0, abs=1e-7)
