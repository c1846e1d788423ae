"""Small disks, closed folders, and a finished run to try them on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
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
def mount(tmp_path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a file system in memory with some options; a test that may not is skipped."""
    mounted: list[Path] = []

    def mounting(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("mounting is not permitted here")
        mounted.append(folder)
        return folder

    yield mounting
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


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
