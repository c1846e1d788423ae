"""A corpus with a folder for each class: DIR/<class>/**/<clip>.wav, or with a folder for each split above
those: DIR/<train|valid|eval>/<class>/**/<clip>.wav."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from audiotag.corpora.audiofiles import AUDIO_EXTENSIONS, walk_files
from audiotag.corpora.entries import SPLIT_OF_NAME, Entry
from audiotag.errors import DataError
from audiotag.logs import progress

logger = logging.getLogger(__name__)

# Besides the usual formats, what else libsndfile decodes: a folder of classes has no list to go by.
EXTENSIONS = {*AUDIO_EXTENSIONS, "aif", "aifc", "aiff", "au", "caf", "oga", "w64"}


def read_class_folders(root: Path) -> list[Entry]:
    """One entry for each audio file, sorted by path; its only label is the name of its class' folder."""
    ignored: Counter[str] = Counter()
    files = sorted(audio_below(root, ignored))
    tops = {parts[0] for parts, _ in files if len(parts) > 1}
    split_names = {name for name in tops if name.lower() in SPLIT_OF_NAME}
    has_splits = bool(tops) and split_names == tops
    if split_names and not has_splits:
        logger.warning(
            "%s: folders named like splits (%s) beside others (%s): all are taken for classes",
            root,
            some(split_names),
            some(tops - split_names),
        )
    depth = 1 if has_splits else 0
    entries = []
    for parts, path in files:
        if len(parts) < depth + 2:
            ignored["audio files outside a class' folder"] += 1
            continue
        split = SPLIT_OF_NAME[parts[0].lower()] if has_splits else None
        entries.append(Entry(path, (class_name(parts[depth]),), split))
    if ignored:
        logger.info("%s: ignored %s", root, ", ".join(f"{n} {kind}" for kind, n in ignored.most_common()))
    if not entries:
        raise DataError(nothing_found(root, ignored))
    return entries


def audio_below(root: Path, ignored: Counter[str]) -> Iterator[tuple[list[str], str]]:
    """The parts of the relative path, and the absolute path, of each audio file; counts the other files."""
    prefix = len(f"{root}/")
    for name, path in progress(walk_files(root), None, f"listing {root}", unit="files"):
        parts = path[prefix:].split("/")
        extension = name.rpartition(".")[2].lower() if "." in name else ""
        if any(part.startswith(".") for part in parts):
            ignored["hidden files"] += 1
        elif extension in EXTENSIONS:
            yield parts, path
        else:
            ignored[f".{extension} files" if extension else "files without extension"] += 1


def class_name(folder: str) -> str:
    """The label that a folder stands for; blanks around it could not be told apart in a label list."""
    return os.fsencode(folder).decode("utf-8", "backslashreplace").strip()


def nothing_found(root: Path, ignored: Counter[str]) -> str:
    """Why there is no clip, and what to do."""
    lists = sorted(path.name for path in root.iterdir() if path.suffix.lower() in (".csv", ".tsv"))
    if lists:
        return (
            f"{root} has no folders of audio files; if {lists[0]} lists the clips, name it: "
            f"--set corpus.list={lists[0]}"
        )
    found = ", ".join(f"{n} {kind}" for kind, n in ignored.most_common()) or "no files"
    return f"{root} has no audio files in folders named by their class; found {found}"


def some(names: Iterable[str], limit: int = 3) -> str:
    """A few of many names."""
    ordered = sorted(names)
    return ", ".join(ordered[:limit]) + (f" and {len(ordered) - limit} more" if len(ordered) > limit else "")
