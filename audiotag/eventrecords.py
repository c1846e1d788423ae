"""The records of TensorBoard's event files: where each lies in a file, and whether it is whole.

A record is its length (8 bytes), a checksum of these, the serialised event, and a checksum of that.
TensorBoard's own reader takes 20 s for 100 MB, nearly all of it for the checksums, which it computes byte by
byte; a resumed run would wait for that. Here all records are checked side by side.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

HEADER_BYTES = 12
FOOTER_BYTES = 4
CRC_START = 0xFFFFFFFF
CRC32C_POLYNOMIAL = 0x82F63B78
# Below so many records that are still being checked, numpy costs more than a loop over bytes.
FEW = 64

# events.out.tfevents.<seconds>.<host>..., as TensorBoard wants them to be called.
FILE_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\..*")


@dataclass(frozen=True)
class Records:
    """What was found in an event file.

    path: the file. content: all of it. spans: first and last byte (exclusive) of each whole record, in order.
    torn: bytes at the end of a record that was not finished, as a killed process leaves it. damaged: why the
    file holds less than was written, if it does.
    """

    path: Path
    content: bytes
    spans: list[tuple[int, int]]
    torn: int = 0
    damaged: str | None = None

    def payload(self, span: tuple[int, int]) -> bytes:
        """The serialised event of a record."""
        return self.content[span[0] + HEADER_BYTES : span[1] - FOOTER_BYTES]

    def payloads(self) -> Iterator[bytes]:
        """Those of all records, in order."""
        return map(self.payload, self.spans)


def event_files(folder: Path) -> list[Path]:
    """The event files of a folder in the order in which they were begun, which is that of their names."""
    return sorted(path for path in folder.glob("events.out.tfevents.*") if path.is_file())


def read_records(path: Path) -> Records:
    """All whole records of an event file."""
    content = path.read_bytes()
    spans, end = walk(content)
    data = np.frombuffer(content, np.uint8)
    table = np.array(spans, dtype=np.int64).reshape(-1, 2)
    starts, stops = table[:, 0], table[:, 1]
    bodies = starts + HEADER_BYTES
    bad_headers = np.flatnonzero(checksums(data, starts, starts + 8) != stored(data, starts + 8))
    if bad_headers.size:
        # Where a length is wrong, so is the place of all that follows.
        first = int(bad_headers[0])
        damaged = f"the record at byte {spans[first][0]} and all after it cannot be read"
        table, spans, end = table[:first], spans[:first], len(content)
        stops, bodies = stops[:first], bodies[:first]
    else:
        damaged = None if is_torn(content, end) else f"what follows byte {end} is no record"
    ends = stops - FOOTER_BYTES
    bad = np.flatnonzero(checksums(data, bodies, ends) != stored(data, ends))
    if bad.size:
        places = ", ".join(str(spans[index][0]) for index in bad[:3]) + (", ..." if bad.size > 3 else "")
        damaged = f"{bad.size} records have wrong checksums (at byte {places})" + (
            f"; {damaged}" if damaged else ""
        )
        wrong = set(bad.tolist())
        spans = [span for index, span in enumerate(spans) if index not in wrong]
    return Records(path, content, spans, torn=0 if damaged else len(content) - end, damaged=damaged)


def walk(content: bytes) -> tuple[list[tuple[int, int]], int]:
    """Where the records lie if all lengths are right, and where the last of them ends."""
    unpack, size, start, spans = struct.Struct("<Q").unpack_from, len(content), 0, []
    while start + HEADER_BYTES <= size:
        stop = start + HEADER_BYTES + unpack(content, start)[0] + FOOTER_BYTES
        if stop > size:
            break
        spans.append((start, stop))
        start = stop
    return spans, start


def is_torn(content: bytes, start: int) -> bool:
    """Whether what follows the last whole record is nothing, or the beginning of another one."""
    header = np.frombuffer(content[start : start + HEADER_BYTES], np.uint8)
    if len(header) < HEADER_BYTES:
        return True
    found = checksums(header, np.array([0]), np.array([8]))
    return bool(found == stored(header, np.array([8])))


def stored(data: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The checksums that lie at some places of a file."""
    return sum(data[starts + byte].astype(np.uint32) << np.uint32(8 * byte) for byte in range(4))


def checksums(data: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """The masked CRC-32C of each of some stretches of bytes, byte by byte over all of them at once."""
    order = np.argsort(starts - stops, kind="stable")  # the longest first
    starts, lengths = starts[order], (stops - starts)[order]
    crc = np.full(len(starts), CRC_START, np.uint32)
    table = crc_table()
    done = 0
    # Of the stretches, sorted by length, the first `active` go on beyond the bytes that are done.
    while (active := int(np.searchsorted(-lengths, -done, side="left"))) > FEW:
        crc_active = crc[:active]
        crc[:active] = table[(crc_active ^ data[starts[:active] + done]) & 0xFF] ^ (crc_active >> 8)
        done += 1
    plain = table.tolist()
    for index in range(active):
        value = int(crc[index])
        for byte in data[starts[index] + done : starts[index] + lengths[index]].tobytes():
            value = plain[(value ^ byte) & 0xFF] ^ (value >> 8)
        crc[index] = value
    crc ^= np.uint32(CRC_START)
    masked = ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)
    result = np.empty_like(masked)
    result[order] = masked
    return result


@cache
def crc_table() -> np.ndarray:
    """The remainders of all bytes for CRC-32C."""
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = (crc >> 1) ^ np.where(crc & 1, np.uint32(CRC32C_POLYNOMIAL), np.uint32(0))
    return crc
