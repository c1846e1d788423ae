"""NumPy's files, read so that whatever is wrong with their content is a ValueError.

The arrays of an .npz file have CRCs, which are compared when they are read. An .npy file has none: another
digit in it is believed, unless its checksum is kept elsewhere.
"""

from __future__ import annotations

import errno
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAX_REASON = 200


def read_arrays(path: Path, *names: str) -> list[NDArray]:
    """The arrays of these names in an .npz file; OSError where the file itself cannot be read."""
    with one_kind_of_error():
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array, not several with names")
        with archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise ValueError(f"it has no array '{missing[0]}', only {', '.join(archive) or 'none'}")
            arrays = [archive[name] for name in names]
    # NumPy hands on as bytes what is no array.
    for name, array in zip(names, arrays, strict=True):
        if not isinstance(array, np.ndarray):
            raise ValueError(f"its '{name}' is no array")
    return arrays


def read_array(path: Path, *, mapped: bool = False) -> NDArray:
    """The array of an .npy file, memory-mapped if wanted; OSError where the file itself cannot be read."""
    with one_kind_of_error():
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise ValueError("it holds several arrays with names, not one")
        return array


@contextmanager
def one_kind_of_error() -> Iterator[None]:
    """ValueError for all that zipfile, zlib, numpy and Python's parsers raise, by the byte that is wrong."""
    try:
        yield
    except Exception as error:
        # With EINVAL a damaged archive asks for impossible places; else the system speaks of the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        # Some quote half of the file.
        reason = textwrap.shorten(str(error), MAX_REASON, placeholder="...")
        raise ValueError(reason or type(error).__name__) from error
