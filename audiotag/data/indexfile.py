"""The columns beside a manifest: byte offsets, durations, labels and ids, in one memory-mapped file.

Layout of `<manifest>.idx`: one line of JSON (format, what the manifest looked like, the columns' places),
filled up with spaces to a multiple of 8 bytes; the columns, each at a multiple of 8 bytes; and the CRC-32 of
all that comes before, in 4 bytes. The file can always be deleted.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from audiotag.atomic import atomic_write
from audiotag.data.indexbuild import DTYPES, Columns, build_columns
from audiotag.errors import DataError

logger = logging.getLogger(__name__)

FORMAT = "audiotag index 3"
OLDER_FORMATS = ("audiotag index 1", "audiotag index 2")
ALIGNMENT = 8
CHECKSUM = struct.Struct("<I")
MAX_HEADER_BYTES = 1 << 16
BLOCK_BYTES = 1 << 18
SAMPLE_BYTES = 1 << 16
NUM_SAMPLES = 16


def open_columns(path: Path, descriptor: int) -> Columns:
    """The columns of a manifest that is open as `descriptor`, from its index file or made anew."""
    index_path = index_path_of(path)
    look = fingerprint(descriptor)
    columns = read_index(index_path, look)
    if columns is not None:
        return columns
    with lock(path, descriptor) as waited:
        # The process that was waited for has probably made it.
        columns = read_index(index_path, look) if waited else None
        return make_index(path, descriptor, look) if columns is None else columns


def index_path_of(path: Path) -> Path:
    """Where the index of a manifest is."""
    return path.with_name(path.name + ".idx")


def fingerprint(descriptor: int) -> dict[str, int]:
    """What tells one state of a manifest from another: size, time, and a checksum of its bytes.

    Of large manifests, 16 blocks of 64 KiB spread over the file are summed up: opening stays fast.
    """
    status = os.fstat(descriptor)
    if status.st_size <= NUM_SAMPLES * SAMPLE_BYTES:
        starts = range(0, status.st_size, SAMPLE_BYTES)
    else:
        starts = np.linspace(0, status.st_size - SAMPLE_BYTES, NUM_SAMPLES).astype(int).tolist()
    checksum = 0
    for start in starts:
        checksum = zlib.crc32(os.pread(descriptor, SAMPLE_BYTES, start), checksum)
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "crc32": checksum}


@contextmanager
def lock(path: Path, descriptor: int) -> Iterator[bool]:
    """Keep other processes from indexing the same manifest meanwhile; yields whether one was waited for.

    Where the file system knows no locks, each process works on its own, which only costs time.
    """
    waited = False
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = True
            logger.info("another process makes the index of %s: waiting for it", path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        logger.debug("%s cannot be locked: %s", path, error)
        yield waited
        return
    try:
        yield waited
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def make_index(path: Path, descriptor: int, look: dict[str, int]) -> Columns:
    """Read the manifest and write its index; the columns, memory-mapped where that is possible."""
    index_path = index_path_of(path)
    logger.info("indexing %s (%.1f MB)", path, look["size"] / 1e6)
    columns = build_columns(path, descriptor)
    if fingerprint(descriptor) != look:
        raise DataError(f"{path} was changed while it was read: let that finish, then run the command again")
    try:
        write_index(index_path, columns, look)
    except OSError as error:  # a manifest on a read-only or full disk is still of use
        logger.warning("%s cannot be written (%s): the index stays in memory", index_path, error.strerror)
        return columns
    mapped = read_index(index_path, look)
    return columns if mapped is None else mapped


def write_index(index_path: Path, columns: Columns, look: dict[str, int]) -> None:
    """Write an index file, whole or not at all."""
    places, position = {}, 0
    for name in DTYPES:
        values = getattr(columns, name)
        places[name] = (position, len(values))
        position += aligned(values.nbytes)
    header = json.dumps({"format": FORMAT, "manifest": look, "columns": places, "num_bytes": position})
    blocks = [header.ljust(aligned(len(header) + 1) - 1).encode() + b"\n"]
    for name in DTYPES:
        values = getattr(columns, name)
        blocks += [values.data.cast("B") if len(values) else b"", bytes(-values.nbytes % ALIGNMENT)]
    checksum = 0
    with atomic_write(index_path, "wb") as file:
        for block in blocks:
            checksum = zlib.crc32(block, checksum)
            file.write(block)
        file.write(CHECKSUM.pack(checksum))


def read_index(index_path: Path, look: dict[str, int]) -> Columns | None:
    """The columns of an index file, or None when it is absent, stale, damaged or not an index."""
    try:
        with index_path.open("rb") as file:
            header = json.loads(file.readline(MAX_HEADER_BYTES))
            if header["format"] in OLDER_FORMATS:
                logger.info("%s is of an older version: making it anew", index_path)
                return None
            if header["format"] != FORMAT:
                raise ValueError("another format")
            start = file.tell()
            check_content(file, start + header["num_bytes"])
            if header["manifest"] != look:
                logger.info("%s is not of this state of its manifest: making it anew", index_path)
                return None
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        columns = {
            name: np.frombuffer(content, dtype, count=count, offset=start + position)
            for (name, dtype), (position, count) in zip(
                DTYPES.items(), (header["columns"][name] for name in DTYPES), strict=True
            )
        }
        return Columns(**columns)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        logger.warning("%s is damaged or not an index (%s): making it anew", index_path, error)
        return None


def check_content(file: BinaryIO, num_bytes: int) -> None:
    """Raise when a file is not `num_bytes` and their checksum.

    All of it is read, for only that shows damage anywhere: 2,000,000 cuts take about a tenth of a second.
    """
    if os.fstat(file.fileno()).st_size != num_bytes + CHECKSUM.size:
        raise ValueError("it is too short or too long")
    file.seek(0)
    checksum, left = 0, num_bytes
    buffer = memoryview(bytearray(BLOCK_BYTES))
    while left:
        count = file.readinto(buffer[: min(left, BLOCK_BYTES)])
        if not count:
            raise ValueError("it ends early")
        checksum = zlib.crc32(buffer[:count], checksum)
        left -= count
    if file.read(CHECKSUM.size) != CHECKSUM.pack(checksum):
        raise ValueError("its checksum is wrong")


def aligned(num_bytes: int) -> int:
    """The next multiple of 8."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
