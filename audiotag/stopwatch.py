"""Measuring speed and memory: rounds of repeated steps, side by side, on a CPU or a GPU."""

from __future__ import annotations

import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

# One step of work: runs it and returns how many clips it was.
Work = Callable[[], int]
Spread = dict[str, float]

MIB = 2**20
STATUS = Path("/proc/self/status")
PEAK_LINE = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


class Stopwatch:
    """Times rounds of several steps each, so that their spread shows how far the machine was at rest.

    Args:
        device: what is waited for before the clock is read.
        steps: steps of a round.
        rounds: rounds of every measurement, after one step that warms up.
    """

    def __init__(self, device: torch.device, steps: int, rounds: int) -> None:
        self.device = device
        self.steps = steps
        self.rounds = rounds

    def rate(self, work: Work) -> Spread:
        """Clips/s of one kind of work."""
        work()
        return spread([self.time_round(work) for _ in range(self.rounds)])

    def compare(self, ours: Work, theirs: Work) -> dict[str, Spread]:
        """Clips/s of two kinds of work in turn, and the ratio of each round, ours over theirs."""
        ours()
        theirs()
        pairs = []
        for index in range(self.rounds):
            # Who goes first alternates, so that a machine that slows down favours neither.
            order = (ours, theirs) if index % 2 == 0 else (theirs, ours)
            rates = {work: self.time_round(work) for work in order}
            pairs.append((rates[ours], rates[theirs]))
        return {
            "ours": spread([own for own, _ in pairs]),
            "theirs": spread([other for _, other in pairs]),
            "ratio": spread([own / other for own, other in pairs]),
        }

    def time_round(self, work: Work) -> float:
        """Clips/s of one round."""
        self.wait()
        start = time.perf_counter()
        clips = sum(work() for _ in range(self.steps))
        self.wait()
        return clips / (time.perf_counter() - start)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class PeakMemory:
    """The largest amount of memory in use: what torch allocated on a GPU, or what a CPU process held.

    A process cannot lower its own peak, so on a CPU each reading includes what came before.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        on_gpu = device.type == "cuda"
        self.kind = "torch.cuda.max_memory_allocated" if on_gpu else "peak resident size of the process"

    def reset(self) -> None:
        """Begin anew, where that is possible."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def read_mib(self) -> float:
        """The peak so far in MiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / MIB
        # What getrusage tells of begins, in a process that another one started, with that one's peak.
        if STATUS.is_file():
            return int(PEAK_LINE.search(STATUS.read_text(encoding="ascii"))[1]) / 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / MIB if sys.platform == "darwin" else peak / 1024


def spread(values: list[float]) -> Spread:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
