"""Which files are to be tagged: files, folders with all that is below them, and lists of both."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from audiotag.corpora.audiofiles import walk_files
from audiotag.corpora.classfolders import EXTENSIONS
from audiotag.errors import DataError

STDIN = "-"


class Input(NamedTuple):
    """A file to tag.

    path: as it is shown, and opened.
    name: what files made for it are called: its path below the folder that was given, or its own name.
    """

    path: str
    name: str


def find_inputs(paths: Sequence[str], lists: Sequence[str] = ()) -> list[Input]:
    """The files that paths mean, each once, in the order given; a folder's in alphabetical order.

    Args:
        paths: files or folders; `-` is a list on standard input.
        lists: text files with a path in each line; `-` is standard input.
    """
    given = [each for path in paths for each in (read_lines(STDIN) if path == STDIN else [path])]
    given += [path for name in lists for path in read_lines(name)]
    found: dict[str, Input] = {}
    for path in given:
        for item in expand(path):
            found.setdefault(item.path, item)
    if not found:
        raise DataError("there is no file to tag: the folders and lists given hold no audio files")
    return list(found.values())


def expand(path: str) -> Iterator[Input]:
    """A file itself, be it there or not, or the audio files below a folder; hidden ones are left out."""
    if not Path(path).is_dir():
        yield Input(path, Path(path).name)
        return
    folder = Path(path)
    prefix = len(f"{folder.absolute()}".rstrip("/")) + 1
    files = sorted(
        absolute[prefix:]
        for name, absolute in walk_files(folder)
        if name.rpartition(".")[2].lower() in EXTENSIONS
    )
    for name in files:
        if not any(part.startswith(".") for part in name.split("/")):
            yield Input(str(folder / name), name)


def read_lines(name: str) -> list[str]:
    """The lines of a list without line ends; empty ones are left out."""
    if name == STDIN:
        return [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    try:
        # Names of files need not be text, and lines of a list need not be names that are.
        text = Path(name).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"list of files cannot be read: {name} ({error.strerror})") from None
    return [line for line in text.split("\n") if line.strip()]
