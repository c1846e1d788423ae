"""Run the code under test in a process of its own, so that a hang or a crash of a decoder is a result too."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Hashable, Iterable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

HANG = "hangs"
CRASH = "kills the process"
# Decoders take milliseconds for the sweep's files, and the machine may be busy.
PATIENCE_S = 30.0
# More than any of the sweep's small files can need.
MEMORY_BYTES = 1 << 28


def guarded(
    function: Callable[[Key], object], keys: Iterable[Key], *, patience_s: float = PATIENCE_S
) -> dict[Key, object]:
    """The result of `function(key)` by key; HANG, CRASH or the text of an exception where there is none.

    After a hang or a crash the other keys go on in a new process.
    """
    pending = list(keys)
    results: dict[Key, object] = {}
    while pending:
        context = get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(function, pending, sender), daemon=True)
        process.start()
        sender.close()
        num_done, failure = collect(receiver, pending, results, patience_s)
        if failure is not None:
            process.kill()
            results[pending[num_done]] = failure
            num_done += 1
        process.join()
        pending = pending[num_done:]
    return results


def work(function: Callable[[Key], object], keys: list[Key], sender: Connection) -> None:
    """What the process does."""
    limit = used_bytes() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for key in keys:
        try:
            result = function(key)
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        sender.send(result)


def used_bytes() -> int:
    """Private memory of this process; what it takes beyond the limit is refused."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def collect(
    receiver: Connection, keys: list[Key], results: dict[Key, object], patience_s: float
) -> tuple[int, str | None]:
    """Take results as they come: how many came, and why there are no more when some are missing."""
    for number, key in enumerate(keys):
        deadline = time.monotonic() + patience_s
        if not receiver.poll(max(0.0, deadline - time.monotonic())):
            return number, HANG
        try:
            results[key] = receiver.recv()
        except EOFError:
            return number, CRASH
    return len(keys), None
