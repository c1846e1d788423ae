"""All processes below one that a test has started."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = list(parents.get(pid, []))
    for child in found:
        found += parents.get(child, [])
    return found


def end_with_tracebacks(process: subprocess.Popen) -> None:
    """End a command that hangs, with all below it; under PYTHONFAULTHANDLER each shows first what its threads
    were doing."""
    for pid in reversed((process.pid, *descendants(process.pid))):
        try:
            os.kill(pid, signal.SIGABRT)
        except ProcessLookupError:
            continue
