"""The figures of a log line: equal however the run was interrupted, over all processes, finite or not."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass

import pytest
import torch

from audiotag.distributed import World
from audiotag.training.meter import Meter

DETERMINISTIC = (
    "train/loss",
    "train/grad_norm",
    "train/clips",
    "train/replaced_clips",
    "train/skipped_updates",
)
ALONE = World(0, 0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class Among(World):
    """A process among others whose figures are known."""

    others: tuple = ()

    def gather(self, item):
        return [item, *self.others]


def feed(meter: Meter, updates, accumulate: int = 2) -> None:
    """Some updates with losses and norms that have many digits."""
    for update in updates:
        generator = torch.Generator().manual_seed(update)
        for _ in range(accumulate):
            loss = torch.rand((), generator=generator).requires_grad_() * 3
            meter.add_batch(loss, 3 + update % 4, 0.001, update % 2)
        meter.add_update(torch.rand((), generator=generator) * 10, torch.tensor(update % 5 == 0))


@pytest.mark.parametrize("cut", [0, 1, 4, 9, 10])
def test_a_stretch_that_was_interrupted_gives_the_same_figures(cut):
    whole = Meter()
    feed(whole, range(3))
    whole.read(ALONE)
    whole.reset()
    feed(whole, range(10))
    expected = whole.read(ALONE)

    before = Meter()
    feed(before, range(3))
    before.read(ALONE)
    before.reset()
    feed(before, range(cut))
    state = before.state_dict()
    after = Meter()
    feed(after, range(77, 80))  # forgotten
    after.load_state_dict(json.loads(json.dumps(state)))
    assert after.state_dict() == state
    feed(after, range(cut, 10))
    found = after.read(ALONE)
    assert [found[tag] for tag in DETERMINISTIC] == [expected[tag] for tag in DETERMINISTIC]
    assert found["train/clips"] > whole.state_dict()["clips"]


def test_the_state_can_be_kept_in_a_checkpoint(tmp_path):
    meter = Meter()
    feed(meter, range(4))
    torch.save(meter.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == meter.state_dict()


def test_the_figures_are_those_of_the_updates():
    meter = Meter()
    for loss in (1.0, 2.0, 6.0):
        meter.add_batch(torch.tensor(loss), 4, 0.0, 2)
    meter.add_update(torch.tensor(5.0), False)
    meter.add_update(torch.tensor(float("inf")), True)
    meter.add_update(torch.tensor(7.0), torch.tensor(False))
    values = meter.read(ALONE)
    assert values["train/loss"] == 3.0
    assert values["train/grad_norm"] == 6.0  # an overflow is no norm
    assert (values["train/clips"], values["train/replaced_clips"], values["train/skipped_updates"]) == (
        12,
        6,
        1,
    )
    assert values["train/memory_mib"] > 10
    assert "train/mfu" not in values
    meter.reset()
    meter.add_batch(torch.tensor(1.5), 4, 0.0, 0)
    meter.add_update(torch.tensor(1.0), False)
    values = meter.read(ALONE)
    assert (values["train/loss"], values["train/clips"], values["train/skipped_updates"]) == (1.5, 16, 0)


def test_speed_waiting_and_mfu_count_only_the_time_of_training():
    meter = Meter(peak_flops=1e6)
    meter.add_batch(torch.tensor(1.0), 10, 0.05, 0, 1e5)
    time.sleep(0.1)
    meter.add_update(torch.tensor(1.0), False)
    time.sleep(0.5)  # a validation
    meter.start()
    meter.add_batch(torch.tensor(1.0), 10, 0.05, 0, 1e5)
    time.sleep(0.1)
    meter.add_update(torch.tensor(1.0), False)
    values = meter.read(ALONE)
    assert 20 / 0.5 < values["train/clips_per_s"] <= 20 / 0.2
    assert values["train/data_wait"] == pytest.approx(values["train/clips_per_s"] * 0.1 / 20)
    assert values["train/mfu"] == pytest.approx(values["train/clips_per_s"] / 20 * 2e5 / 1e6)


def test_time_before_an_interruption_counts_and_the_pause_does_not():
    meter = Meter()
    meter.add_batch(torch.tensor(1.0), 10, 0.0, 0)
    time.sleep(0.2)
    meter.add_update(torch.tensor(1.0), False)
    state = meter.state_dict()
    time.sleep(0.5)
    meter.load_state_dict(state)
    speed = meter.read(ALONE)["train/clips_per_s"]
    assert 10 / 0.5 < speed <= 10 / 0.2


def test_figures_of_all_processes():
    own = {"loss": 3.0, "batches": 2, "clips": 8, "replaced": 1, "speed": 100.0, "wait": 0.5, "mfu": 0.2}
    meter = Meter(peak_flops=1.0)
    meter.add_batch(torch.tensor(1.0), 4, 0.0, 2)
    meter.add_update(torch.tensor(2.0), False)
    values = meter.read(Among(0, 0, 2, torch.device("cpu"), others=((own, {"train/memory_mib": 1e9}),)))
    assert values["train/loss"] == pytest.approx(4.0 / 3)
    assert (values["train/clips"], values["train/replaced_clips"]) == (12, 3)
    assert values["train/clips_per_s"] > 100
    assert values["train/data_wait"] == 0.25
    assert values["train/mfu"] == pytest.approx(0.1)
    assert values["train/memory_mib"] == 1e9
    assert values["train/grad_norm"] == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_shows(bad):
    meter = Meter()
    for loss in (1.0, bad, -bad):
        meter.add_batch(torch.tensor(loss), 1, 0.0, 0)
    meter.add_update(torch.tensor(bad), False)
    values = meter.read(ALONE)
    assert math.isnan(values["train/loss"]) and math.isnan(values["train/grad_norm"])


def test_nothing_to_read_is_no_error():
    values = Meter().read(ALONE)
    assert math.isnan(values["train/loss"]) and values["train/clips_per_s"] == 0.0


def test_no_graph_is_kept():
    meter = Meter()
    weight = torch.ones((), requires_grad=True)
    meter.add_batch(weight * 2, 1, 0.0, 0)
    assert meter._losses[0].grad_fn is None
