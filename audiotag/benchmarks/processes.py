"""Measuring in fresh processes, whose memory nothing else has touched."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from audiotag.errors import DataError

Result = TypeVar("Result")
MAPS = Path("/proc/self/smaps_rollup")
MIB = 2**20


class Memory(NamedTuple):
    """Memory of this process in MiB.

    Args:
        private: what only this process uses.
        written: the part of it that it wrote itself, so that no other can ever share it.
        proportional: private, and of what processes share each one's part (PSS).
        resident: all that is mapped and in memory, shared or not.
    """

    private: float
    written: float
    proportional: float
    resident: float

    def since(self, before: Memory) -> Memory:
        """What has come since an earlier reading."""
        return Memory(*(now - then for now, then in zip(self, before, strict=True)))


def read_memory() -> Memory:
    """The memory of this process now."""
    if not MAPS.is_file():
        raise DataError(f"{MAPS} is missing: memory can only be measured on Linux")
    fields = {}
    for line in MAPS.read_text(encoding="ascii").splitlines()[1:]:
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) * 1024 / MIB
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    return Memory(private, fields["Private_Dirty"], fields["Pss"], fields["Rss"])


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function of a module in a new Python process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def in_fresh_processes(count: int, function: Callable[..., Result], *arguments: Any) -> list[Result]:
    """Call a function in several new processes at once; its first argument is a barrier of them all."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(count, mp_context=context) as pool:
        barrier = manager.Barrier(count)
        waiting = [pool.submit(function, barrier, *arguments) for _ in range(count)]
        return [result.result() for result in waiting]


def in_forked_process(function: Callable[..., Memory], *arguments: Any) -> Memory:
    """Call a function in a fork of this process, as loader workers are."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(function, *arguments).result()


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def read_s(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start


def machine() -> str:
    """How loaded the machine is, for the line above the figures."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
