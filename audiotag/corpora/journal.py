"""Lists of finished work that grow while a stage runs: one JSON list a line.

Each line ends in a checksum: one that a killed process has left half, or that a disk has damaged, counts as
absent.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any


def open_journal(path: Path) -> IO[str]:
    """A journal to append lines to, beginning a new one where the last was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", encoding="utf-8")
    if file.tell() and not ends_with_newline(path):
        file.write("\n")
    return file


def journal_line(values: Sequence[Any]) -> str:
    """A JSON list whose last element is a checksum of the text before it."""
    text = json.dumps(values)[:-1]
    return f"{text}, {zlib.crc32(text.encode())}]\n"


def read_journal(path: Path) -> Iterator[list[Any]]:
    """The values of all good lines; none where there is no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            text, _, checksum = line.rpartition(b", ")
            if checksum.rstrip() == b"%d]" % zlib.crc32(text):
                yield json.loads(text + b"]")


def ends_with_newline(path: Path) -> bool:
    """Whether the last line of a file is whole."""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
