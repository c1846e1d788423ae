"""Write a file, or files that belong together, so that they are either there whole or not there at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

NEW_FILES = ".new-"  # what the folder of files that are being written begins with


@contextmanager
def atomic_write(path: Path | str, mode: str = "w") -> Iterator[IO]:
    """A file to write to that takes the place of `path` when the block ends without an error.

    mode: `w` for UTF-8 text with line ends as they are given, or `wb`. Missing folders are made. The
    temporary file lies in the same folder (a rename is atomic only within a file system), is synced
    before the rename and removed on an error.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Process ids are those of one machine or container, and others may write into the same folder.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        # A new file always ("x"): never what somebody has put, or linked, under this name.
        with temporary.open(mode.replace("w", "x"), **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # A write that the system refuses (disk full) does not say which file it was for.
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    sync_folder(path.parent)


@contextmanager
def replace_together(folder: Path | str, sign: str, outdated: Iterable[str] = ()) -> Iterator[Path]:
    """A folder to write into, whose files go into `folder` when the block ends without an error.

    Until all of them are written, those of before stay as they are. Whoever is killed while they are moved
    leaves a folder without its sign.

    Args:
        folder: made if absent; files of other names in it stay.
        sign: the file by which readers know that the others are there and belong together: that of before
            goes first, the new one comes last.
        outdated: files that go with those of before, also where there are no new ones of these names.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=NEW_FILES, suffix=".tmp") as temporary:
            new = Path(temporary)
            yield new
            for name in (sign, *outdated):
                (folder / name).unlink(missing_ok=True)
            for path in sorted(new.iterdir()):
                if path.name != sign:
                    path.replace(folder / path.name)
            sync_folder(folder)
            (new / sign).replace(folder / sign)
    except OSError as error:
        error.filename = final_name(error.filename, folder)
        raise
    sync_folder(folder)


def final_name(name: str | None, folder: Path) -> str | None:
    """What a file of an error was to be called; people never see the folder of new files."""
    parts = Path(name).relative_to(folder).parts if name and Path(name).is_relative_to(folder) else ()
    is_new = parts and parts[0].startswith(NEW_FILES)
    return str(folder.joinpath(*parts[1:])) if is_new else name


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder last over a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
