"""Find the audio file of each listed clip in a folder, whatever its layout.

The folder is listed once, with all sub-folders. A file belongs to a clip when its name is one of

    <id>   Y<id>   <id>_<start>   <id>_<start>_<end>   (start in seconds or milliseconds)

and that id is listed, with that start. Ids contain '_' and begin with '-' themselves, so that no part of
a name is an id unless the list says so.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from audiotag.corpora.segments import Segment
from audiotag.errors import DataError
from audiotag.logs import progress

logger = logging.getLogger(__name__)

# What downloads come as and libsndfile cannot decode: found, so that it is not called missing.
UNDECODABLE_EXTENSIONS = ("m4a", "aac", "mp4", "webm", "wma")
# The earlier one is taken where a clip is there in several formats.
AUDIO_EXTENSIONS = ("wav", "flac", "ogg", "opus", "mp3", *UNDECODABLE_EXTENSIONS)
RANK_OF_EXTENSION = {extension: rank for rank, extension in enumerate(AUDIO_EXTENSIONS)}


def find_audio(folder: Path, segments: Iterable[Segment]) -> dict[str, str]:
    """The path of the file of each clip that has one, by clip id.

    Where an id is listed several times, its first row counts. Of several files for a clip, the plainest form
    of name is taken, then the first of `AUDIO_EXTENSIONS`, then the first path in alphabetical order, so that
    the choice does not depend on the file system.
    """
    if not folder.is_dir():
        raise DataError(f"audio folder not found: {folder}; check corpus.dir and corpus.audio_dir")
    start_of_id: dict[str, float] = {}
    for segment in segments:
        start_of_id.setdefault(segment.id, segment.start_s)
    best: dict[str, tuple[int, int, str]] = {}
    num_of_form: Counter[int] = Counter()
    ambiguous: list[tuple[list[tuple[str, int]], int, str]] = []

    def note(clip_id: str, candidate: tuple[int, int, str]) -> None:
        if clip_id not in best or candidate < best[clip_id]:
            best[clip_id] = candidate

    for name, path in progress(walk_files(folder), None, f"listing {folder}", unit="files"):
        stem, _, extension = name.rpartition(".")
        rank = RANK_OF_EXTENSION.get(extension.lower())
        if rank is None:
            continue
        meanings = match_stem(stem, start_of_id)
        if len(meanings) == 1:
            clip_id, form = meanings[0]
            num_of_form[form] += 1
            note(clip_id, (form, rank, path))
        elif meanings:
            ambiguous.append((meanings, rank, path))
    # `ab_30` is the clip `ab_30` among files named by their id, and `ab` where all names end in a start.
    for meanings, rank, path in ambiguous:
        clip_id, form = max(meanings, key=lambda meaning: (num_of_form[meaning[1]], -meaning[1]))
        note(clip_id, (form, rank, path))
    return {clip_id: path for clip_id, (_, _, path) in best.items()}


def walk_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and absolute path of each file below a folder; links are followed, circles are not.

    A folder that is reached in several ways is listed once, by its own path rather than by a link. Folders
    that cannot be listed are warned of. Paths stay strings: a million of them are listed in seconds.
    """
    top = str(folder.absolute())
    pending, linked, visited = [top], [], set()
    while pending or linked:
        current = pending.pop() if pending else linked.pop()
        try:
            status = Path(current).stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            folders, links = [], []
            with os.scandir(current) as entries:
                for entry in entries:
                    if is_folder(entry):
                        (links if entry.is_symlink() else folders).append(entry.path)
                    elif is_file(entry):
                        yield entry.name, entry.path
        except OSError as error:
            if current == top:
                raise DataError(f"cannot list the folder {current}: {error.strerror}") from None
            logger.warning("cannot list %s (%s): files in it count as missing", current, error.strerror)
            continue
        pending += sorted(folders, reverse=True)
        linked += sorted(links, reverse=True)


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or a link to one; a link that leads nowhere is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_file(entry: os.DirEntry) -> bool:
    """Whether an entry is a file or a link to one."""
    try:
        return entry.is_file()
    except OSError:
        return False


def match_stem(stem: str, start_of_id: dict[str, float]) -> list[tuple[str, int]]:
    """The listed ids that a name without extension can stand for, and how plain the form is (0 plainest)."""
    meanings = []
    for form, (name, start) in enumerate(readings(stem)):
        for offset, clip_id in enumerate((name, name[1:]) if name.startswith("Y") else (name,)):
            listed_s = start_of_id.get(clip_id)
            if listed_s is not None and (start is None or is_same_start(start, listed_s)):
                meanings.append((clip_id, 2 * form + offset))
    return meanings


def readings(stem: str) -> list[tuple[str, float | None]]:
    """What a name can mean: (id, start) with no, one or two numbers behind the id."""
    found: list[tuple[str, float | None]] = [(stem, None)]
    name, _, last = stem.rpartition("_")
    if is_number(last):
        found.append((name, float(last)))
        name, _, first = name.rpartition("_")
        if is_number(first):
            found.append((name, float(first)))
    return found


def is_number(text: str) -> bool:
    """Whether a text is a number as file names have it: digits, perhaps with a point."""
    whole, _, fraction = text.partition(".")
    return text.isascii() and whole.isdigit() and (not fraction or fraction.isdigit())


def is_same_start(found: float, listed_s: float) -> bool:
    """Whether a number in a name is the listed start in seconds or milliseconds, rounded or cut off."""
    return abs(found - listed_s) < 1.0 or abs(found - 1000 * listed_s) <= 1.0
