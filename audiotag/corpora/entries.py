"""What a user's own corpus says of its clips, whether a CSV or the names of folders say it."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# The names that people give to the three splits.
SPLIT_OF_NAME = {
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "dev": "valid",
    "validation": "valid",
    "eval": "eval",
    "test": "eval",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One clip: its file, its labels as written, and its split where one is named."""

    path: str  # absolute
    labels: tuple[str, ...]
    split: str | None = None
    # The part of the file that is the clip; None is up to its end.
    start_s: float = 0.0
    end_s: float | None = None
    # Classes, as written, of which nobody knows whether the clip has them.
    unlabelled: tuple[str, ...] = ()

    @property
    def is_part(self) -> bool:
        return self.start_s > 0 or self.end_s is not None

    @property
    def place(self) -> tuple[str, float, float | None]:
        """What makes it a clip of its own: two entries of one place are the same clip."""
        return self.path, self.start_s, self.end_s


def name_clips(entries: Sequence[Entry], root: Path) -> list[str]:
    """The id of each entry: its path below `root` without extension, for a part with start and end in ms.

    Entries of one place share an id, those of different places never do: files that differ only by their
    extension keep it, and what is still alike (parts within a millisecond, say) gets a checksum of its place.
    """
    stems = {entry.path: stem_of(entry.path, root) for entry in entries}
    files_of_stem = Counter(stems.values())
    ids = {}
    for entry in entries:
        stem = stems[entry.path]
        if files_of_stem[stem] > 1:
            stem += split_extension(entry.path)[1]
        ids[entry.place] = stem + suffix_of(entry)
    places_of_id = Counter(ids.values())
    for place, clip_id in ids.items():
        if places_of_id[clip_id] > 1:
            ids[place] = f"{clip_id}_{zlib.crc32(repr(place).encode()):08x}"
    return [ids[entry.place] for entry in entries]


def stem_of(path: str, root: Path) -> str:
    """A path below the corpus' folder without extension; one that lies elsewhere counts from the root.

    Ids are written as UTF-8, so bytes of a file name that are not become escapes such as \\xe9.
    """
    folder = f"{root}/"
    below = path[len(folder) :] if path.startswith(folder) else path.lstrip("/")
    return os.fsencode(split_extension(below)[0]).decode("utf-8", "backslashreplace")


def split_extension(path: str) -> tuple[str, str]:
    """A path without extension, and the extension with its point."""
    stem, point, extension = path.rpartition(".")
    return (stem, point + extension) if point and "/" not in extension else (path, "")


def suffix_of(entry: Entry) -> str:
    """`_<start>_<end>` in milliseconds for a part of a file."""
    if not entry.is_part:
        return ""
    end = "end" if entry.end_s is None else f"{1000 * entry.end_s:.0f}"
    return f"_{1000 * entry.start_s:.0f}_{end}"
