"""How much memory a process on this machine can still take: of the machine, and of what limits the process.

Batch systems and containers limit processes by control groups, whose limit is often far below the machine's
memory; beyond it the kernel ends the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

KIB = 2**10
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# Of both versions of control groups: limit, present use, and the part of it that the kernel gives back.
VERSION_2 = ("memory.max", "memory.current", "inactive_file")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that are free, or soon would be, for this process.

    Args:
        proc, cgroups: where the kernel tells of processes and of their limits.
    """
    return min([machine_bytes(proc), *group_bytes(proc, cgroups)])


def machine_bytes(proc: Path) -> int:
    """What the whole machine has left; where it does not say so, half of what it has."""
    info = proc / "meminfo"
    if info.is_file():
        for line in info.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * KIB
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def group_bytes(proc: Path, cgroups: Path) -> Iterator[int]:
    """What each control group that the process is in, and each above it, has left."""
    listing = proc / "self" / "cgroup"
    if not listing.is_file():
        return
    for line in listing.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from left_in(cgroups, path, VERSION_2)
        elif "memory" in controllers.split(","):
            yield from left_in(cgroups / "memory", path, VERSION_1)


def left_in(root: Path, path: str, names: tuple[str, str, str]) -> Iterator[int]:
    """What is left in a group and in those above it, where they have a limit.

    A container may see its own group as the root, whatever path the process is told to have.
    """
    limit_name, usage_name, given_back = names
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        if folder.is_relative_to(root) and (folder / usage_name).is_file():
            limit = (folder / limit_name).read_text(encoding="ascii").strip()
            if limit != "max":
                used = int((folder / usage_name).read_text(encoding="ascii"))
                yield max(0, int(limit) - used + statistic(folder / "memory.stat", given_back))


def statistic(path: Path, name: str) -> int:
    """A number of a group's statistics; 0 where it is not there."""
    for line in path.read_text(encoding="ascii").splitlines() if path.is_file() else []:
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
