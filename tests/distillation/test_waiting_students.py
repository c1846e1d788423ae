"""Runs that need the same stored rows: one makes them, the others wait, go on, take over, or leave."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.training.processes import Run

STUDENT = ("--set", "distillation={teachers: [teachers/a]}", "--set", "training.epochs=1")
PROBE = ("--set", "init={model: teachers/a, head: fresh}", "--set", "training.epochs=1")
PROBE += ("--set", "encoder={name: ast, embed_dim: 24, depth: 2, num_heads: 1, freeze: true}")
BLOCKS = 9
MAKER = r"(?: \(process (\d+) on .*\))?, which is making (.*) in .*"
WAITING = rf"waiting for another run{MAKER}: \d+ of \d+ clips are done"


class Students:
    """Trainings over one data folder, each with an experiment folder of its own."""

    def __init__(self, recipe, folder: Path) -> None:
        self.recipe = recipe
        self.data = folder / "data"
        self.exp = folder / "exp"
        shutil.copytree(recipe.folder / "data", self.data, ignore=shutil.ignore_patterns("teacher", "embed*"))
        self.runs: list[Run] = []

    def start(self, *settings: str, processes: int = 1) -> Run:
        """One more of them."""
        folders = ("--data-dir", str(self.data), "--exp-dir", str(self.exp / str(len(self.runs))))
        arguments = ("train", "--config", "config.yaml", *folders, *(settings or STUDENT))
        module = "tests.distillation.small_blocks"
        self.runs.append(Run(self.recipe, *arguments, processes=processes, module=module))
        return self.runs[-1]

    def blocks(self) -> dict[Path, int]:
        """When each block that is there was made."""
        return {path: path.stat().st_mtime_ns for path in self.data.glob("teacher/*/blocks/[0-9]*.npz")}


@pytest.fixture
def students(taught, tmp_path):
    found = Students(taught, tmp_path)
    yield found
    for run in found.runs:
        if run.process.poll() is None:
            run.kill()


@pytest.fixture
def suspended(students) -> Run:
    """A training that has made some of the blocks, and stands still for now."""
    maker = students.start()
    assert maker.wait_until(lambda: len(students.blocks()) >= 2, every_s=0.005), maker.output
    maker.process.send_signal(signal.SIGSTOP)
    return maker


def waits(run: Run) -> bool:
    """Whether a run has said, after some time, that it waits."""
    return run.wait_until(lambda: "waiting for another run" in run.output)


def pid_of_maker(run: Run) -> int:
    return int(re.search(WAITING, run.output)[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "what", "times"),
    [(STUDENT, "the teachers' scores", 1), (PROBE, "the encoder's embeddings", 2)],
    ids=["students", "probes"],
)
def test_of_two_that_start_together_one_makes_the_rows(students, settings, what, times):
    both = [students.start(*settings) for _ in range(2)]
    for run in both:
        assert run.wait() == 0, run.output
    made = [re.findall(r"clips in \d blocks, 0 of which are done", run.output) for run in both]
    assert sum(map(len, made)) == times
    waited = [found for run in both for found in re.findall(WAITING, run.output)]
    # Who misses the lock by a moment waits for some seconds without a word, as for that of a dying run.
    assert {found[1] for found in waited} <= {what}
    # One that has the folder since this very moment is not named yet.
    assert {int(pid) for pid, _ in waited if pid} <= {run.process.pid for run in both}


@pytest.mark.slow
def test_who_waits_goes_on_once_all_rows_are_there(students, suspended):
    waiter = students.start()
    assert waits(waiter), waiter.output
    assert pid_of_maker(waiter) == suspended.process.pid
    suspended.process.send_signal(signal.SIGCONT)
    assert waiter.wait() == 0 and suspended.wait() == 0, waiter.output
    assert "teachers hear" in suspended.output and "teachers hear" not in waiter.output
    assert waiter.output.count("waiting for another run") == 1
    assert "that run has ended" not in waiter.output


@pytest.mark.slow
def test_of_several_that_wait_one_takes_over(students, suspended):
    waiters = [students.start() for _ in range(2)]
    assert all(waits(waiter) for waiter in waiters)
    kept = students.blocks()
    suspended.kill()
    for waiter in waiters:
        assert waiter.wait() == 0, waiter.output
    hearing = [waiter for waiter in waiters if "teachers hear" in waiter.output]
    assert len(hearing) == 1, [waiter.output for waiter in waiters]
    assert f"in {BLOCKS} blocks, {len(kept)} of which are done" in hearing[0].output


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_who_waits_takes_over_from_a_killed_run(students, suspended, processes):
    waiter = students.start(processes=processes)
    assert waits(waiter), waiter.output
    kept = students.blocks()
    suspended.kill()
    said = "that run has ended before all were made"
    assert waiter.wait_until(lambda: said in waiter.output), waiter.output
    assert waiter.wait_until(lambda: len(students.blocks()) > len(kept), every_s=0.005), waiter.output
    assert kept.items() <= students.blocks().items()
    assert waiter.wait() == 0, waiter.output
    assert f"in {BLOCKS} blocks, {len(kept)} of which are done" in waiter.output


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_who_waits_leaves_when_asked_to(students, suspended, name):
    waiter = students.start()
    assert waits(waiter), waiter.output
    start = time.monotonic()
    waiter.process.send_signal(getattr(signal, name))
    assert waiter.wait() == 75, waiter.output
    assert time.monotonic() - start < 10
    said = (
        f"stopped by {name} while it waited for another run to make the teachers' scores in {students.data}"
    )
    assert said in waiter.output and "error:" not in waiter.output and "Traceback" not in waiter.output
    assert suspended.process.poll() is None and len(students.blocks()) >= 2


@pytest.mark.slow
def test_processes_wait_together_for_longer_than_they_would_for_each_other(students, suspended):
    waiter = students.start(*STUDENT, "--set", "training.timeout_s=8", processes=2)
    assert waits(waiter), waiter.output
    time.sleep(12)
    assert waiter.process.poll() is None, waiter.output
    os.kill(waiter.ranks()[1], signal.SIGTERM)
    waiter.wait()  # with a code of torchrun's own
    assert waiter.output.count("stopped by SIGTERM while it waited for another run") == 1
    assert "error:" not in waiter.output, waiter.output
