"""Whether a folder can be written into, asked before hours are spent on what goes there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from audiotag.errors import StorageError


def check_writable(folder: Path) -> None:
    """Write a file into the folder, or into the nearest one above it that is there; raise when that fails.

    Permission bits say little of root, of quotas and of file systems that are mounted read-only.
    """
    place = existing(folder)
    if not place.is_dir():
        raise StorageError(f"cannot write into {folder}: {place} is a file; name a folder")
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(
            f"cannot write into {place} ({os.strerror(error.errno)}): check its permissions, and that its "
            "file system can be written and has space"
        ) from None


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
