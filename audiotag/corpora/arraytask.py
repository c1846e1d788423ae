"""The share that one task of a job array has in a stage's work."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class ArrayTask:
    """One of the tasks that a stage's work is dealt to; each may run on another machine, at any time.

    A task leaves what is finished where the stage looks for it. The stage itself, run after all tasks, finds
    that done, and does what a task has left undone.
    """

    number: int
    """From 1 to count."""
    count: int

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every count-th item: neighbours, which are alike in size, go to different tasks."""
        return items[self.number - 1 :: self.count]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_task(text: str) -> ArrayTask:
    """An `ArrayTask` from a text such as 3/64, as an argument's type."""
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, such as 3/64, found {text}")
    return ArrayTask(int(match[1]), int(match[2]))
