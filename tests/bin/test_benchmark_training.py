"""The benchmark of the training loop as a command, and that what it measures is what it says."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace

import pytest
import torch

from audiotag.benchmarks.engine import (
    BareLoop,
    Cost,
    open_trainer,
    overheads,
    take_turns,
    train_in_memory,
    without_end,
)
from audiotag.configfile import load_config
from audiotag.distributed import World

CPU = torch.device("cpu")
ROWS = (
    "an epoch of the bare loop, s",
    "an epoch of the trainer, s",
    "overhead of the trainer, %",
    "the same in processor time, %",
    "an epoch with the loader, s",
    "save: training waits, ms",
    "save: until it is on disk, ms",
    "validation, share of an epoch, %",
    "start: fresh, and from a checkpoint, s",
    "one thread each: 1 process, 2 processes, clips/s",
)


@pytest.mark.slow
def test_the_command_prints_a_table(recipe):
    done = recipe.run("benchmark_training", "--config", "config.yaml", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    figures = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", done.stdout, re.MULTILINE))
    assert set(ROWS) <= set(figures)
    for row in (row for row in ROWS if "%" not in row):
        assert float(re.match(r"[\d.]+", figures[row])[0]) > 0, row
    assert not (recipe.folder / "exp").exists() or not list(recipe.exp("run").glob("*"))


def test_the_bare_loop_does_what_the_trainer_does(recipe, monkeypatch):
    """Else the overhead would be that over something else: both end an epoch with the same weights."""
    monkeypatch.chdir(recipe.folder)
    config = load_config("config.yaml", ["training.accumulate=2", "encoder.dropout=0.0"])
    world = World(rank=0, local_rank=0, size=1, device=CPU)
    data = recipe.folder / "data"
    trainer = open_trainer(config, data, recipe.folder / "engine" / "run", world)
    batches = list(trainer.train_loader(1, 0))
    bare = BareLoop(config, data, recipe.folder / "engine" / "bare", world, batches)
    with without_end(trainer):
        train_in_memory(trainer, batches)
        assert trainer.position.epoch == 1
    for first in range(0, len(batches), 2):
        bare.update(first)
    trainer.log.close()
    for name, tensor in trainer.tagger.state_dict().items():
        torch.testing.assert_close(bare.model.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)


def test_turns_alternate_and_the_first_round_does_not_count():
    calls = []

    class Bare:
        size, device = 2, CPU

        def update(self, first):
            time.sleep(0.02)
            calls.append(f"bare {first}")

    class Loop:
        position, world = SimpleNamespace(epoch=0), World(rank=0, local_rank=0, size=1, device=CPU)
        train_loader = None

        def train_epoch(self, epoch):
            for batch in self.train_loader(epoch, 0):
                calls.append(batch)

    ours, bare = take_turns(Loop(), Bare(), ["a", "b", "c"], 2)
    assert calls == 3 * ["bare 0", "a", "b", "bare 2", "c"]
    assert len(ours) == len(bare) == 2
    assert all(cost.wall_s >= 0.04 for cost in bare)
    assert all(0 <= cost.wall_s < 0.04 for cost in ours)


def test_overheads():
    assert overheads([Cost(1.5, 2.0)], [Cost(1.0, 1.0)], "wall_s") == [50.0]
    assert overheads([Cost(1.5, 2.0)], [Cost(1.0, 1.0)], "cpu_s") == [100.0]
