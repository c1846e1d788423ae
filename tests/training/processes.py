"""Training processes to be stopped, killed and started again, and what they leave to be compared."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tests.conftest import ROOT, Recipe
from tests.processtree import descendants, end_with_tracebacks

# What a clock or the system's memory decides.
UNSTEADY = ("train/clips_per_s", "train/data_wait", "train/memory_mib", "train/mfu")
WAIT_S = 600.0
NUMBERS = itertools.count(1)


class Run:
    """A training command that has been started, alone or under torchrun.

    Args:
        recipe: where it runs.
        arguments: of the command.
        processes: how many; torchrun starts them for more than one.
        limits: called in the new process before the command.
        module: of the command.
    """

    def __init__(
        self,
        recipe: Recipe,
        *arguments: str,
        processes: int = 1,
        limits: Callable[[], None] | None = None,
        module: str = "audiotag.bin.train",
    ) -> None:
        launcher = ["-m", module]
        if processes > 1:
            launcher = [
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={processes}",
                *launcher,
            ]
        self._log = (recipe.folder / f"run-{next(NUMBERS)}.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, *launcher, *arguments],
            cwd=recipe.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=limits,
        )

    @property
    def output(self) -> str:
        """What the processes have written so far."""
        return Path(self._log.name).read_text()

    def wait_until(self, condition: Callable[[], object], every_s: float = 0.01) -> bool:
        """Poll a condition; False when the run ended before it held."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                self.fail("waited in vain")
            time.sleep(every_s)
        return True

    def wait(self) -> int:
        """The exit code."""
        try:
            return self.process.wait(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            self.fail("does not end")

    def fail(self, why: str) -> NoReturn:
        """End the processes, which show what they were doing, and the test."""
        end_with_tracebacks(self.process)
        raise AssertionError(f"{why}:\n{self.output}")

    def ranks(self) -> list[int]:
        """Process ids of the training processes, first rank first."""
        found = [self.process.pid, *descendants(self.process.pid)]
        by_rank = {rank: pid for pid in found if (rank := rank_of(pid)) is not None}
        # Loader processes have the same environment; their parents come first.
        return [by_rank[rank] for rank in sorted(by_rank)]

    def kill(self) -> None:
        """SIGKILL to all processes at the same moment."""
        for pid in (self.process.pid, *descendants(self.process.pid)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(timeout=WAIT_S)


def rank_of(pid: int) -> int | None:
    """RANK of a process whose parent has none: torchrun's workers, not the loader processes below them."""
    try:
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        own, above = (Path(f"/proc/{number}/environ").read_bytes().split(b"\0") for number in (pid, parent))
    except OSError:
        return None
    ranks = [entry for entry in own if entry.startswith(b"RANK=")]
    return int(ranks[0][5:]) if ranks and ranks[0] not in above else None


def raw_points(exp_dir: Path) -> dict[str, list[tuple[int, bytes]]]:
    """(update, stored value) of all records by tag, as they lie in the event files; unsteady ones without
    their value."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    for path in sorted((exp_dir / "tensorboard").glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                stored = b"" if value.tag in UNSTEADY else value.tensor.SerializeToString()
                found.setdefault(value.tag, []).append((event.step, stored))
    return found


def assert_same_run(one: Path, other: Path, last: str) -> None:
    """Two folders hold the same run: its last checkpoint and its curves are equal bit by bit."""
    states = [torch.load(folder / last, weights_only=True) for folder in (one, other)]
    for state in states:
        # When and where each was started, and what clocks have summed up for the next log line.
        del state["provenance"], state["meter"]
    assert_equal(*states, "checkpoint")
    before, after = raw_points(one), raw_points(other)
    assert before.keys() == after.keys()
    for tag, points in after.items():
        if tag.startswith("provenance"):
            continue
        steps = [step for step, _ in points]
        assert len(set(steps)) == len(steps), f"{tag} has points twice: {steps}"
        assert sorted(points) == sorted(before[tag]), tag


def assert_equal(one: object, other: object, where: str) -> None:
    """Nested values are the same, tensors bit by bit."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_equal(left, right, f"{where}.{index}")
    else:
        assert one == other, where
