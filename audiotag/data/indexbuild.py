"""Reading a manifest of JSON lines once, to make the columns of its index."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.errors import DataError

DTYPES = {
    "offsets": np.dtype("<i8"),
    "durations": np.dtype("<f4"),
    "label_starts": np.dtype("<i8"),
    "label_ids": np.dtype("<i4"),
    "id_starts": np.dtype("<i8"),
    "id_bytes": np.dtype("u1"),
}

# What 32 bits can tell apart from 0 and from infinity, and no clip exceeds.
SHORTEST_S, LONGEST_S = 1e-6, 1e9

# What a line can do wrong; a UnicodeDecodeError and a JSONDecodeError are ValueErrors.
LINE_ERRORS = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Columns:
    """Columns of N cuts.

    Args:
        offsets: (N+1,) where each line starts; the last is where the last line ends.
        durations: (N,) seconds.
        label_starts, label_ids: class indices of cut i are `label_ids[label_starts[i]:label_starts[i+1]]`.
        id_starts, id_bytes: the same for the UTF-8 bytes of ids.
    """

    offsets: np.ndarray
    durations: np.ndarray
    label_starts: np.ndarray
    label_ids: np.ndarray
    id_starts: np.ndarray
    id_bytes: np.ndarray

    def __len__(self) -> int:
        return len(self.durations)

    def id(self, position: int) -> str:
        """Id of a cut."""
        start, end = self.id_starts[position : position + 2].tolist()
        return self.id_bytes[start:end].tobytes().decode(errors="replace")

    def labels(self, position: int) -> np.ndarray:
        """Class indices of a cut."""
        return self.label_ids[self.label_starts[position] : self.label_starts[position + 1]]

    def ids(self) -> np.ndarray:
        """All ids (N,) as fixed-width bytes, without a copy where all have one length."""
        lengths = np.diff(self.id_starts)
        width = max(1, int(lengths.max(initial=1)))
        if (lengths == width).all():
            return self.id_bytes.view(f"S{width}")
        table = np.zeros((len(self), width), dtype=np.uint8)
        table[np.arange(width) < lengths[:, None]] = self.id_bytes
        return table.view(f"S{width}")[:, 0]


def build_columns(path: Path, descriptor: int) -> Columns:
    """Read a manifest line by line and check every cut."""
    # Arrays of machine numbers: lists of Python's objects would take ten times the memory.
    offsets, durations, label_starts, label_ids = array("q"), array("f"), array("q", [0]), array("i")
    id_starts, id_bytes, id_hashes = array("q", [0]), bytearray(), array("q")
    end = 0
    for number, start, line in lines_of(descriptor):
        end = start + len(line)
        if not line.strip():
            continue
        try:
            cut_id, duration, labels = essentials(parse_line(line))
            label_ids.extend(labels)
            id_bytes += cut_id.encode()
        except LINE_ERRORS as error:
            raise DataError(
                f"{path}, line {number}: not a cut ({type(error).__name__}: {error}); run the stage that "
                "made this manifest again with --force"
            ) from None
        offsets.append(start)
        durations.append(duration)
        label_starts.append(len(label_ids))
        id_starts.append(len(id_bytes))
        id_hashes.append(hash(cut_id))
    offsets.append(end)
    values = (offsets, durations, label_starts, label_ids, id_starts, id_bytes)
    columns = Columns(*(np.frombuffer(v, dtype) for v, dtype in zip(values, DTYPES.values(), strict=True)))
    check_unique(path, descriptor, columns, np.frombuffer(id_hashes, np.int64))
    return columns


def check_unique(path: Path, descriptor: int, columns: Columns, id_hashes: np.ndarray) -> None:
    """Raise when an id comes twice; ids of equal hashes (N,) are compared."""
    order = np.argsort(id_hashes, kind="stable")
    alike = np.flatnonzero(id_hashes[order[1:]] == id_hashes[order[:-1]])
    pairs = sorted((int(order[place + 1]), int(order[place])) for place in alike)
    for second, first in pairs:
        if columns.id(first) == columns.id(second):
            starts = (columns.offsets[first], columns.offsets[second])
            earlier, later = (number for number, start, _ in lines_of(descriptor) if start in starts)
            raise DataError(
                f"{path}, line {later}: cut id {columns.id(first)} is already in line {earlier}; ids must "
                "differ: run the stage that made this manifest again with --force"
            )


def lines_of(descriptor: int) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), byte offset and bytes of each line."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        position = 0
        for number, line in enumerate(file, start=1):
            yield number, position, line
            position += len(line)


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object of a line."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def essentials(record: dict[str, Any]) -> tuple[str, float, list[int]]:
    """Id, duration and class indices of a cut; the labels are those of its first supervision."""
    duration = record["duration"]
    if type(duration) not in (int, float) or not SHORTEST_S <= duration <= LONGEST_S:
        raise ValueError(f"duration {duration!r}")
    if not isinstance(record["id"], str):
        raise ValueError(f"id {record['id']!r} is not a string")
    if "\0" in record["id"]:  # numpy takes it for the end of a text
        raise ValueError(f"id {record['id']!r} has a character 0")
    supervisions = record.get("supervisions") or [{}]
    events = (supervisions[0].get("custom") or {}).get("audio_event")
    if events is None or events == "":
        return record["id"], float(duration), []
    indices = events.split(";")
    # int() would read "1_0", " 1" and digits of other scripts as well.
    if not (events.isascii() and all(map(str.isdigit, indices))):
        raise ValueError(f"audio_event {events!r}")
    return record["id"], float(duration), [int(index) for index in indices]
