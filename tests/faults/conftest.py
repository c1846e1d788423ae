"""Small disks, closed folders, and a finished run to try them on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.conftest import finished

__all__ = ["finished"]


class SmallDisk:
    """A file system in memory that can be filled up and made free again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def leave(self, num_bytes: int) -> None:
        """Fill the disk but for so much."""
        size = shutil.disk_usage(self.folder).free - num_bytes
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def free(self) -> None:
        """Take the filler away."""
        self._filler.unlink()


@pytest.fixture
def small_disk(mount) -> SmallDisk:
    """A disk of 8 MB."""
    return SmallDisk(mount("size=8m"))


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root, to whom no folder is closed, gives its rights up."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)
