"""Find the audio file of each listed clip in a folder, whatever its layout.

The folder is listed once, with all sub-folders. A file belongs to a clip when its name is one of

    <id>   Y<id>   <id>_<start>   <id>_<start>_<end>   (start in seconds or milliseconds)

and that id is listed, with that start. Ids contain '_' and begin with '-' themselves, so that no part of
a name is an id unless the list says so.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from audiotag.corpora.segments import Segment
from audiotag.errors import DataError
from audiotag.logs import progress

# The earlier one is taken where a clip is there in several formats.
AUDIO_EXTENSIONS = ("wav", "flac", "ogg", "opus", "mp3", "m4a")


def find_audio(folder: Path, segments: Iterable[Segment]) -> dict[str, str]:
    """The path of the file of each clip that has one, by clip id.

    Of several files for a clip, the plainest form of name is taken, then the first of `AUDIO_EXTENSIONS`,
    then the first path in alphabetical order, so that the choice does not depend on the file system.
    """
    if not folder.is_dir():
        raise DataError(f"audio folder not found: {folder}; check corpus.dir and corpus.audio_dir")
    starts_of_id = defaultdict(set)
    for segment in segments:
        starts_of_id[segment.id].add(segment.start_s)
    best: dict[str, tuple[int, int, str]] = {}
    files = progress(walk_files(folder), None, f"listing {folder}", unit="files")
    for name, path in files:
        stem, _, extension = name.rpartition(".")
        extension = extension.lower()
        if extension not in AUDIO_EXTENSIONS:
            continue
        match = match_stem(stem, starts_of_id)
        if match is None:
            continue
        clip_id, form = match
        candidate = (form, AUDIO_EXTENSIONS.index(extension), path)
        if clip_id not in best or candidate < best[clip_id]:
            best[clip_id] = candidate
    return {clip_id: path for clip_id, (_, _, path) in best.items()}


def walk_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and absolute path of each file below a folder; links are followed, circles are not.

    Paths stay strings: a million of them are listed in seconds.
    """
    pending = [str(folder.absolute())]
    visited = set()
    while pending:
        current = pending.pop()
        status = Path(current).stat()
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.is_dir():
                    pending.append(entry.path)
                elif entry.is_file():
                    yield entry.name, entry.path


def match_stem(stem: str, starts_of_id: dict[str, set[float]]) -> tuple[str, int] | None:
    """The listed id that a file name without extension stands for, and how plain the name is (0 plainest)."""
    for form, (name, start) in enumerate(readings(stem)):
        for offset, clip_id in enumerate((name, name[1:] if name.startswith("Y") else None)):
            starts = starts_of_id.get(clip_id) if clip_id else None
            if starts and (start is None or any(same_start(start, listed) for listed in starts)):
                return clip_id, 2 * form + offset
    return None


def readings(stem: str) -> Iterator[tuple[str, float | None]]:
    """What a name can mean: (id, start) with no, one or two numbers behind the id."""
    yield stem, None
    name, _, last = stem.rpartition("_")
    if is_number(last):
        yield name, float(last)
        name, _, first = name.rpartition("_")
        if is_number(first):
            yield name, float(first)


def is_number(text: str) -> bool:
    """Whether a text is a number as file names have it: digits, perhaps with a point."""
    whole, _, fraction = text.partition(".")
    return text.isascii() and whole.isdigit() and (not fraction or fraction.isdigit())


def same_start(found: float, listed_s: float) -> bool:
    """Whether a number in a name is the listed start in seconds or milliseconds, rounded or cut off."""
    return abs(found - listed_s) < 1.0 or abs(found - 1000 * listed_s) <= 1.0
