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
    "unlabelled_sets": np.dtype("<i4"),
    "unlabelled_starts": np.dtype("<i8"),
    "unlabelled_ids": np.dtype("<i4"),
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
        unlabelled_sets: (N,) number of the set of classes of which cut i does not say whether it has them;
            empty where every cut says so of all.
        unlabelled_starts, unlabelled_ids: the same for the classes of each set.
    """

    offsets: np.ndarray
    durations: np.ndarray
    label_starts: np.ndarray
    label_ids: np.ndarray
    id_starts: np.ndarray
    id_bytes: np.ndarray
    unlabelled_sets: np.ndarray
    unlabelled_starts: np.ndarray
    unlabelled_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.durations)

    def id(self, position: int) -> str:
        """Id of a cut."""
        start, end = self.id_starts[position : position + 2].tolist()
        return self.id_bytes[start:end].tobytes().decode(errors="replace")

    def labels(self, position: int) -> np.ndarray:
        """Class indices of a cut."""
        return self.label_ids[self.label_starts[position] : self.label_starts[position + 1]]

    def unlabelled(self, position: int) -> np.ndarray:
        """Indices of the classes of which a cut does not say whether it has them."""
        if not len(self.unlabelled_sets):
            return self.unlabelled_ids
        number = self.unlabelled_sets[position]
        return self.unlabelled_ids[self.unlabelled_starts[number] : self.unlabelled_starts[number + 1]]

    def ids(self) -> np.ndarray:
        """All ids (N,) as fixed-width bytes, without a copy where all have one length."""
        lengths = np.diff(self.id_starts)
        width = max(1, int(lengths.max(initial=1)))
        if (lengths == width).all():
            return self.id_bytes.view(f"S{width}")
        table = np.zeros((len(self), width), dtype=np.uint8)
        table[np.arange(width) < lengths[:, None]] = self.id_bytes
        return table.view(f"S{width}")[:, 0]


class ClassSets:
    """The sets of unlabelled classes of many cuts in little memory: each distinct one is kept once.

    Corpora say nothing of the same long list of classes for most of their clips. Set 0 is the empty one;
    while there is no other, nothing is kept at all.
    """

    def __init__(self) -> None:
        self.numbers, self.starts, self.ids = array("i"), array("q"), array("i")
        self._number_of: dict[tuple[int, ...], int] = {}

    def put(self, position: int, classes: list[int]) -> None:
        """Note the set of a cut; cuts that are passed over have the empty one."""
        if not self._number_of:
            self._number_of[()] = 0
            self.starts.extend((0, 0))
        self.finish(position)
        number = self._number_of.setdefault(tuple(classes), len(self._number_of))
        if number == len(self.starts) - 1:
            self.ids.extend(classes)
            self.starts.append(len(self.ids))
        self.numbers.append(number)

    def finish(self, count: int) -> None:
        """Fill up to a number of cuts."""
        if self.starts:
            self.numbers.frombytes(bytes(self.numbers.itemsize * (count - len(self.numbers))))


def build_columns(path: Path, descriptor: int) -> Columns:
    """Read a manifest line by line and check every cut."""
    # Arrays of machine numbers: lists of Python's objects would take ten times the memory.
    offsets, durations, label_starts, label_ids = array("q"), array("f"), array("q", [0]), array("i")
    id_starts, id_bytes, id_hashes = array("q", [0]), bytearray(), array("q")
    unlabelled_sets = ClassSets()
    end = 0
    for number, start, line in lines_of(descriptor):
        end = start + len(line)
        if not line.strip():
            continue
        try:
            cut_id, duration, labels, unlabelled = essentials(parse_line(line))
            label_ids.extend(labels)
            if unlabelled:
                unlabelled_sets.put(len(durations), unlabelled)
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
    unlabelled_sets.finish(len(durations))
    values = (offsets, durations, label_starts, label_ids, id_starts, id_bytes)
    values += (unlabelled_sets.numbers, unlabelled_sets.starts, unlabelled_sets.ids)
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


def essentials(record: dict[str, Any]) -> tuple[str, float, list[int], list[int]]:
    """Id and duration of a cut, the classes that it has and those of which it says nothing.

    Both are class indices in the custom fields of its first supervision, `audio_event` and `unlabelled`.
    """
    duration = record["duration"]
    if type(duration) not in (int, float) or not SHORTEST_S <= duration <= LONGEST_S:
        raise ValueError(f"duration {duration!r}")
    if not isinstance(record["id"], str):
        raise ValueError(f"id {record['id']!r} is not a string")
    if "\0" in record["id"]:  # numpy takes it for the end of a text
        raise ValueError(f"id {record['id']!r} has a character 0")
    supervisions = record.get("supervisions") or [{}]
    custom = supervisions[0].get("custom") or {}
    labels = class_indices(custom, "audio_event")
    unlabelled = class_indices(custom, "unlabelled")
    if unlabelled and not set(unlabelled).isdisjoint(labels):
        raise ValueError(f"a class of audio_event {custom['audio_event']!r} is unlabelled too")
    return record["id"], float(duration), labels, unlabelled


def class_indices(custom: dict[str, Any], field: str) -> list[int]:
    """The class indices of a custom field, separated by semicolons."""
    events = custom.get(field)
    if events is None or events == "":
        return []
    indices = events.split(";")
    # int() would read "1_0", " 1" and digits of other scripts as well.
    if not (events.isascii() and all(map(str.isdigit, indices))):
        raise ValueError(f"{field} {events!r}")
    return [int(index) for index in indices]
