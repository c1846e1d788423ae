"""The processors that this process may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def num_processors() -> int:
    """How many there are; a scheduler may have given a process fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Run with one thread, on one processor where the system lets a process choose."""
    import torch  # slow, and not needed to count processors

    threads = torch.get_num_threads()
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    torch.set_num_threads(1)
    if processors:
        os.sched_setaffinity(0, {max(processors)})
    try:
        yield
    finally:
        if processors:
            os.sched_setaffinity(0, processors)
        torch.set_num_threads(threads)
