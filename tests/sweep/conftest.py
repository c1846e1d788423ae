"""What all sweeps share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")  # noqa: S108 (only a folder of its own in there)
ENOUGH_BYTES = 1 << 28


@pytest.fixture(scope="session")
def memory_folder(tmp_path_factory) -> Iterator[Path]:
    """A folder in memory where there is one: a disk that writes out thousands of files takes minutes."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ENOUGH_BYTES:
        yield tmp_path_factory.mktemp("sweep")
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def module_folder(memory_folder) -> Iterator[Path]:
    """A folder for what the tests of a file share."""
    path = Path(tempfile.mkdtemp(dir=memory_folder))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def tmp_path(memory_folder) -> Iterator[Path]:
    """Pytest's folder of this name, in memory."""
    path = Path(tempfile.mkdtemp(dir=memory_folder))
    yield path
    shutil.rmtree(path, ignore_errors=True)
