"""Killed at any moment and started again, a run ends with the same bits as one that nobody disturbed."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest

from tests.training.processes import Run, assert_same_run

# 36 clips in base batches of 3: six updates an epoch alone, three with two processes.
CONFIG = """
include: config.yaml
data: {batch_size: 3, num_workers: 2, sampling: weighted}
training:
  epochs: 3
  accumulate: 2
  log_every: 1
  save_every_steps: 1
  validate_every_steps: 4
  keep_last_steps: 3
  ema: {decay: 0.9}
  running_average: {period: 2}
augment:
  mixup: {on: waveform, probability: 0.5, alpha: 10, partner: corpus}
  gain: {}
  white_noise: {}
  masks: {name: ast, freq_width: 48, time_width: 20}
schedule: {name: cosine, warmup_steps: 4}
"""
LAST = "epoch-3.pt"
ARGUMENTS = ("--config", "survival.yaml", "--data-dir", "weighted")


class Bench:
    """Runs to be killed, and an undisturbed one of the same length to compare with.

    Args:
        recipe: where they run.
        processes: how many each has.
    """

    def __init__(self, recipe, processes: int) -> None:
        self.recipe = recipe
        self.processes = processes
        self.whole = recipe.exp(f"undisturbed{processes}")
        start = time.monotonic()
        run = self.start(self.whole)
        assert run.wait() == 0, run.output
        self.duration_s = time.monotonic() - start

    def start(self, folder: Path) -> Run:
        """Start a run, or go on with it."""
        return Run(self.recipe, *ARGUMENTS, "--exp-dir", str(folder), processes=self.processes)

    def finish(self, folder: Path) -> None:
        """Let a run go on to its end, and compare it."""
        run = self.start(folder)
        assert run.wait() == 0, run.output
        assert not [path.name for path in folder.glob(".*.tmp")]
        assert_same_run(self.whole, folder, LAST)
        assert {path.name for path in folder.glob("*.pt")} == {path.name for path in self.whole.glob("*.pt")}


def prepare(recipe) -> None:
    """The configuration, and statistics for the weights in a data folder of their own."""
    (recipe.folder / "survival.yaml").write_text(CONFIG)
    if not (recipe.folder / "weighted").exists():
        shutil.copytree(recipe.folder / "data", recipe.folder / "weighted")
        done = recipe.run("stats", "--config", "survival.yaml", "--data-dir", "weighted")
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def alone(recipe) -> Bench:
    prepare(recipe)
    return Bench(recipe, 1)


@pytest.fixture(scope="module")
def together(recipe) -> Bench:
    prepare(recipe)
    return Bench(recipe, 2)


def kill_after(run: Run, seconds: float) -> bool:
    """Kill a run so long after its start; False when it was over before."""
    end = time.monotonic() + seconds
    if not run.wait_until(lambda: time.monotonic() > end):
        return False
    run.kill()
    return True


def kill_while_writing(run: Run, folder: Path) -> bool:
    """Kill a run as soon as it begins to write a checkpoint; True when a part of one was left."""
    started = run.wait_until(lambda: any(folder.glob(".*.pt.*.tmp")), every_s=0.001)
    run.kill()
    return started and any(folder.glob(".*.pt.*.tmp"))


def kill_at_random(bench: Bench, name: str, kills: int, seed: int) -> None:
    """Kill a run again and again at moments of its first so many seconds, then compare."""
    folder = bench.recipe.exp(name)
    chance = random.Random(seed)
    for _ in range(kills):
        kill_after(bench.start(folder), chance.uniform(0.1, 1.1) * bench.duration_s)
    bench.finish(folder)


@pytest.mark.slow
def test_killed_while_it_writes_a_checkpoint(alone):
    folder = alone.recipe.exp("written")
    assert any(kill_while_writing(alone.start(folder), folder) for _ in range(6))
    alone.finish(folder)


def test_killed_in_the_midst_of_training(alone):
    folder = alone.recipe.exp("midst")
    run = alone.start(folder)
    # After some updates of the second epoch, wherever training is then.
    assert run.wait_until(lambda: (folder / "step-8.pt").exists())
    run.kill()
    assert not (folder / LAST).exists()
    alone.finish(folder)


@pytest.mark.slow
def test_two_processes_killed_in_the_midst_of_training(together):
    folder = together.recipe.exp("midst2")
    run = together.start(folder)
    assert run.wait_until(lambda: (folder / "step-4.pt").exists())
    run.kill()
    assert not (folder / LAST).exists()
    together.finish(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(alone, seed):
    kill_at_random(alone, f"random{seed}", kills=5, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_two_processes_killed_at_random_moments(together, seed):
    kill_at_random(together, f"random2-{seed}", kills=4, seed=100 + seed)


@pytest.mark.slow
def test_killed_in_every_checkpoint(alone):
    """Each start gets one checkpoint further at most, and dies within the next."""
    folder = alone.recipe.exp("each")
    hits = 0
    for _ in range(12):
        hits += kill_while_writing(alone.start(folder), folder)
        if (folder / LAST).exists():
            break
    assert hits >= 3
    alone.finish(folder)
