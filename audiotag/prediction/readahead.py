"""Decode and resample the next batches while the model is busy with the present one."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Full, Queue
from typing import Any, TypeVar

Item = TypeVar("Item")

LOOK_S = 0.1  # how often a reader that waits for room looks whether anybody still wants it


def read_ahead(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """The same items, made by a thread that is at most `depth` of them ahead; its error is raised here."""
    queue: Queue[tuple[str, Any]] = Queue(maxsize=depth)
    stopped = threading.Event()

    def put(kind: str, value: Any = None) -> bool:
        while not stopped.is_set():
            try:
                queue.put((kind, value), timeout=LOOK_S)
                return True
            except Full:
                continue
        return False

    def read() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
        except BaseException as error:  # whatever it is, it is raised by who asked for the items
            put("error", error)
        else:
            put("end")

    thread = threading.Thread(target=read, name="reader", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = queue.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()
