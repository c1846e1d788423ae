"""How much memory training takes: on a GPU what torch allocated, else what the processes hold."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from pathlib import Path

import torch

MIB = 2**20
KIB_PER_MIB = 2**10
PROC = Path("/proc")
PROPORTIONAL = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)

# The kernel walks all pages of a process to add them up, some milliseconds for each GiB: it is asked again
# once that is a thousandth of the time since.
REST_FACTOR = 1000


class MemoryGauge:
    """The memory of this process since the last reading.

    `train/memory_mib` is, on a GPU, the most that torch had allocated, beside the most that it had taken from
    the device, `train/memory_reserved_mib`. Without one it is what this process and its children, the
    loader's among them, hold at the moment, pages that they share counted once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._held_mib = 0.0
        self._due = 0.0

    def read(self) -> dict[str, float]:
        """Both figures in MiB, by TensorBoard tag; the peaks begin anew."""
        if self.device.type == "cuda":
            peaks = {
                "train/memory_mib": torch.cuda.max_memory_allocated(self.device) / MIB,
                "train/memory_reserved_mib": torch.cuda.max_memory_reserved(self.device) / MIB,
            }
            torch.cuda.reset_peak_memory_stats(self.device)
            return peaks
        start = time.monotonic()
        if start >= self._due:
            self._held_mib = held_mib()
            end = time.monotonic()
            self._due = end + REST_FACTOR * (end - start)
        return {"train/memory_mib": self._held_mib}


def held_mib() -> float:
    """Memory that this process and all below it hold; where there is no /proc, its own peak so far."""
    if not PROC.joinpath("self/statm").exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / MIB if sys.platform == "darwin" else peak / KIB_PER_MIB
    total, waiting = 0.0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        try:
            total += process_mib(pid)
            waiting += children(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended meanwhile, or is another user's
    return total


def process_mib(pid: int) -> float:
    """The memory of one process; a page that several have counts for each by its share."""
    try:
        found = PROPORTIONAL.search(PROC.joinpath(str(pid), "smaps_rollup").read_bytes())
        return int(found[1]) / KIB_PER_MIB if found else 0.0
    except FileNotFoundError:  # a kernel before 4.14, or no such process
        pages = int(PROC.joinpath(str(pid), "statm").read_bytes().split()[1])
        return pages * resource.getpagesize() / MIB


def children(pid: int) -> list[int]:
    """The processes that a process, any thread of it, has started and that still run."""
    tasks = PROC.joinpath(str(pid), "task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_bytes().split()]
