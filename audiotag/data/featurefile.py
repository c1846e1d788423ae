"""Read stored feature matrices, or a stretch of their frames.

Archives of chunked lilcom, which stage 2 writes, are read here: one system call for all chunks that are
wanted, where lhotse's own reader opens a buffered file and seeks to each. Other formats go through lhotse.
"""

from __future__ import annotations

import os
import zlib

import lilcom
import numpy as np
from lhotse import Features
from lhotse.features.io import LilcomChunkyReader, get_reader

# Where a cut keeps the CRC-32 of its matrix: lilcom itself decompresses wrong bytes to wrong values.
CHECKSUM = "features_crc32"
CHUNK_FRAMES = LilcomChunkyReader.CHUNK_SIZE


def read_matrix(features: Features, first: int, end: int, checksum: int | None = None) -> np.ndarray:
    """Frames `first` up to `end` (T,F) of a stored matrix; another number where the file holds another.

    Args:
        features: where the matrix is.
        first, end: the frames.
        checksum: CRC-32 of the whole matrix as it is stored, which is looked at when all of it is read.
    """
    # To the end is not up to a number, so that a matrix that is too long is noticed.
    last = None if end == features.num_frames else end
    if features.storage_type == LilcomChunkyReader.name:
        return read_chunks(features.storage_path, features.storage_key, first, last, checksum)
    reader = get_reader(features.storage_type)(features.storage_path)
    return reader.read(features.storage_key, left_offset_frames=first, right_offset_frames=last)


def read_chunks(path: str, key: str, first: int, end: int | None, checksum: int | None = None) -> np.ndarray:
    """Frames of a matrix of chunked lilcom.

    Args:
        path: the archive.
        key: where the matrix begins in it, and the number of bytes of each chunk of 500 frames.
        first, end: the frames; None for all behind the first.
        checksum: as in `read_matrix`.
    """
    start, *sizes = map(int, key.split(","))
    num_chunks = len(sizes)
    chosen = slice(first // CHUNK_FRAMES, end and -(-end // CHUNK_FRAMES))
    start += sum(sizes[: chosen.start])
    sizes = sizes[chosen]
    file = os.open(path, os.O_RDONLY)
    try:
        content = os.pread(file, sum(sizes), start)
    finally:
        os.close(file)
    if len(content) < sum(sizes):
        raise ValueError(f"{sum(sizes)} bytes are expected at {start}, {len(content)} are there")
    if checksum is not None and len(sizes) == num_chunks and zlib.crc32(content) != checksum:
        raise ValueError("its bytes have changed since they were written")
    chunks, place = [], 0
    for size in sizes:
        chunks.append(lilcom.decompress(content[place : place + size]))
        place += size
    frames = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    before = chosen.start * CHUNK_FRAMES
    return frames[first - before : end and end - before]
