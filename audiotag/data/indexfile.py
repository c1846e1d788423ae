"""The columns beside a manifest: byte offsets, durations, labels and ids, in one memory-mapped file.

Layout of `<manifest>.idx`: one line of JSON (format, what the manifest looked like, the columns' places
and a checksum), then the columns, each at a multiple of 8 bytes. The file can always be deleted.
"""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.atomic import atomic_write
from audiotag.errors import DataError

logger = logging.getLogger(__name__)

FORMAT = "audiotag index 1"
ALIGNMENT = 8
SAMPLE_BYTES = 1 << 16
NUM_SAMPLES = 16
DTYPES = {
    "offsets": np.dtype("<i8"),
    "durations": np.dtype("<f4"),
    "label_starts": np.dtype("<i8"),
    "label_ids": np.dtype("<i4"),
    "id_starts": np.dtype("<i8"),
    "id_bytes": np.dtype("u1"),
}


@dataclass(frozen=True)
class Columns:
    """Columns of N cuts.

    Args:
        offsets: (N+1,) where each line starts; the last is where the last line ends.
        durations: (N,) seconds.
        label_starts, label_ids: class indices of cut i are `label_ids[label_starts[i]:label_starts[i+1]]`.
        id_starts, id_bytes: the same for the UTF-8 bytes of ids.
    """

    offsets: np.ndarray
    durations: np.ndarray
    label_starts: np.ndarray
    label_ids: np.ndarray
    id_starts: np.ndarray
    id_bytes: np.ndarray

    def __len__(self) -> int:
        return len(self.durations)

    def id(self, position: int) -> str:
        """Id of a cut."""
        return bytes(self.id_bytes[self.id_starts[position] : self.id_starts[position + 1]]).decode()

    def ids(self) -> np.ndarray:
        """All ids (N,) as fixed-width bytes."""
        lengths = np.diff(self.id_starts)
        width = int(lengths.max(initial=1))
        table = np.zeros((len(self), width), dtype=np.uint8)
        table[np.arange(width) < lengths[:, None]] = self.id_bytes
        return table.view(f"S{width}")[:, 0]


def open_columns(path: Path, descriptor: int) -> Columns:
    """The columns of a manifest that is open as `descriptor`, from its index file or made anew."""
    index_path = path.with_name(path.name + ".idx")
    look = fingerprint(descriptor)
    columns = read_index(index_path, look)
    if columns is not None:
        return columns
    columns = build_columns(path, descriptor)
    try:
        write_index(index_path, columns, look)
    except OSError as error:  # a manifest on a read-only disk is still of use
        logger.warning("%s cannot be written (%s): the index stays in memory", index_path, error.strerror)
        return columns
    return read_index(index_path, look) or columns


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


def read_index(index_path: Path, look: dict[str, int]) -> Columns | None:
    """The columns of an index file, or None when it is absent, stale, damaged or not an index."""
    try:
        with index_path.open("rb") as file:
            header = json.loads(file.readline(1 << 16))
            if header["format"] != FORMAT:
                raise ValueError("another format")
            if header["manifest"] != look:
                logger.info("%s is older than its manifest: making it anew", index_path)
                return None
            start = aligned(file.tell())
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        body = memoryview(content)[start:]
        if len(body) != header["num_bytes"] or zlib.crc32(body) != header["crc32"]:
            raise ValueError("its checksum is wrong")
        places = header["columns"]
        columns = {
            name: np.frombuffer(body, dtype, count=places[name][1], offset=places[name][0])
            for name, dtype in DTYPES.items()
        }
        return Columns(**columns)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        logger.warning("%s is damaged or not an index (%s): making it anew", index_path, error)
        return None


def write_index(index_path: Path, columns: Columns, look: dict[str, int]) -> None:
    """Write an index file, whole or not at all."""
    places, blocks, position, checksum = {}, [], 0, 0
    for name, dtype in DTYPES.items():
        values = np.ascontiguousarray(getattr(columns, name), dtype)
        block = values.tobytes()
        block += bytes(aligned(len(block)) - len(block))
        places[name] = (position, len(values))
        blocks.append(block)
        position += len(block)
        checksum = zlib.crc32(block, checksum)
    header = {
        "format": FORMAT,
        "manifest": look,
        "columns": places,
        "num_bytes": position,
        "crc32": checksum,
    }
    line = json.dumps(header).encode() + b"\n"
    with atomic_write(index_path, "wb") as file:
        file.write(line + bytes(aligned(len(line)) - len(line)))
        file.writelines(blocks)


def build_columns(path: Path, descriptor: int) -> Columns:
    """Read a manifest once, line by line, and check every cut."""
    offsets, durations, label_starts, label_ids = [], [], [0], []
    id_starts, id_bytes = [0], bytearray()
    line_of_id: dict[str, int] = {}
    end = 0
    for number, start, line in lines_of(descriptor):
        end = start + len(line)
        if not line.strip():
            continue
        try:
            cut_id, duration, labels = essentials(parse_line(line))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise DataError(
                f"{path}, line {number}: not a cut ({type(error).__name__}: {error}); run the stage that "
                "made this manifest again with --force"
            ) from None
        if cut_id in line_of_id:
            raise DataError(f"{path}, line {number}: cut id {cut_id} is already in line {line_of_id[cut_id]}")
        line_of_id[cut_id] = number
        offsets.append(start)
        durations.append(duration)
        label_ids.extend(labels)
        label_starts.append(len(label_ids))
        id_bytes += cut_id.encode()
        id_starts.append(len(id_bytes))
    offsets.append(end)
    ids = np.frombuffer(bytes(id_bytes), np.uint8)
    values = (offsets, durations, label_starts, label_ids, id_starts, ids)
    return Columns(*(np.asarray(v, dtype) for v, dtype in zip(values, DTYPES.values(), strict=True)))


def lines_of(descriptor: int) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), byte offset and bytes of each line."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        position = 0
        for number, line in enumerate(file, start=1):
            yield number, position, line
            position += len(line)


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object of a line; UnicodeDecodeError and JSONDecodeError are ValueErrors."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def essentials(record: dict[str, Any]) -> tuple[str, float, list[int]]:
    """Id, duration and class indices of a cut; the labels are those of its first supervision."""
    duration = record["duration"]
    if not (isinstance(duration, (int, float)) and 0 < duration < math.inf):
        raise ValueError(f"duration {duration!r}")
    if not isinstance(record["id"], str):
        raise ValueError(f"id {record['id']!r} is not a string")
    supervisions = record.get("supervisions") or [{}]
    events = (supervisions[0].get("custom") or {}).get("audio_event") or ""
    labels = [int(index) for index in events.split(";")] if events else []
    if any(label < 0 for label in labels):
        raise ValueError(f"audio_event {events!r}")
    return record["id"], float(duration), labels


def aligned(num_bytes: int) -> int:
    """The next multiple of 8."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
