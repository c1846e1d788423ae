"""Spread a stage's work over processes of this machine."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from audiotag.errors import AudiotagError

Task = TypeVar("Task")
Result = TypeVar("Result")

PARENT_CHECK_EVERY_S = 0.5


def parallel_map(
    function: Callable[[Task], Result], tasks: Sequence[Task], num_jobs: int, *, chunk_size: int = 1
) -> Iterator[Result]:
    """Results in the order of the tasks; the first error stops the work.

    Args:
        function: a function of a module, or a `partial` of one.
        tasks: its arguments.
        num_jobs: processes; 1 works in this one.
        chunk_size: tasks handed over at a time.
    """
    num_jobs = min(num_jobs, -(-len(tasks) // chunk_size))
    if num_jobs <= 1:
        yield from map(function, tasks)
        return
    pool = ProcessPoolExecutor(
        num_jobs, mp_context=get_context("fork"), initializer=set_up_worker, initargs=(os.getpid(),)
    )
    try:
        yield from pool.map(function, tasks, chunksize=chunk_size)
    except BrokenProcessPool:
        raise AudiotagError(
            f"one of {num_jobs} worker processes was killed, perhaps for lack of memory: run the same "
            "command again, with a smaller --nj; finished work is kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def set_up_worker(parent: int) -> None:
    """Make a worker quiet on Ctrl-C, gone with its parent, and of one thread where torch is loaded."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=leave_with, args=(parent,), daemon=True).start()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def leave_with(parent: int) -> None:
    """End this process when its parent has ended: a worker that waits for tasks would wait for ever."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_EVERY_S)
    os._exit(1)
