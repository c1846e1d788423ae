"""Notice wav files that were cut off, or whose header says two things at once.

A rate, a number of channels or of bits that is wrong makes other sound of the same bytes, and no decoder
complains; but the header states each of them twice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

# Programs that write to a pipe never learn the size: ffmpeg leaves 0xFFFFFFFF, sox 0x7FFFF000.
UNKNOWN_SIZES = range(0x7FFF0000, 0x100000000)
# No sound file has more before its sound; a file of zeros would be walked over 8 bytes at a time.
MAX_CHUNKS = 10_000
PCM, FLOAT, A_LAW, MU_LAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE


class Format(NamedTuple):
    """The chunk `fmt `."""

    code: int
    channels: int
    rate: int
    bytes_per_s: int
    frame_bytes: int
    bits: int


def find_wav_fault(file: BinaryIO, file_bytes: int) -> str | None:
    """What is wrong with an open RIFF or RF64 file, or None."""
    file.seek(4)
    riff_bytes = struct.unpack("<I", file.read(4))[0]
    layout, of_rf64 = None, None
    for name, size in chunks(file, 12, "<"):
        if name == b"ds64":
            of_rf64 = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        elif name == b"fmt ":
            layout = Format(*struct.unpack("<HHIIHH", file.read(16).ljust(16, b"\0")))
        elif name == b"data":
            left = file_bytes - file.tell()
            promised = size if of_rf64 is None else of_rf64
            if left < promised and of_rf64 is None and size in UNKNOWN_SIZES:
                promised = left - left % max(layout.frame_bytes if layout else 1, 1)
            if left < promised:
                return f"truncated: the header promises {promised} bytes of sound, {left} are there"
            end = min(file_bytes, 8 + riff_bytes) if of_rf64 is None else 0
            contradiction = find_contradiction(layout, promised) or find_unclaimed(
                file, file.tell() + promised, end
            )
            return f"unreadable: its header contradicts itself: {contradiction}" if contradiction else None
    return None


def chunks(file: BinaryIO, start: int, order: str) -> Iterator[tuple[bytes, int]]:
    """Name and size of each chunk, with the file at its content; sizes are even, as in RIFF and IFF."""
    for _ in range(MAX_CHUNKS):
        file.seek(start)
        header = file.read(8)
        if len(header) < 8:
            return
        name, size = struct.unpack(f"{order}4sI", header)
        yield name, size
        start += 8 + size + size % 2


def find_contradiction(layout: Format | None, sound_bytes: int) -> str | None:
    """How the fields of a header contradict each other; compressed sound follows other rules."""
    if layout is None or layout.code not in (PCM, FLOAT, A_LAW, MU_LAW, EXTENSIBLE):
        return None
    bits = 8 if layout.code in (A_LAW, MU_LAW) else layout.bits
    frame_bytes = layout.channels * -(-bits // 8)
    if layout.frame_bytes != frame_bytes:
        return f"{layout.channels} channels of {bits} bits in {layout.frame_bytes} bytes"
    if layout.bytes_per_s != layout.rate * frame_bytes:
        return f"{layout.rate} Hz of {frame_bytes} bytes, but {layout.bytes_per_s} bytes per second"
    if sound_bytes % frame_bytes:
        return f"{sound_bytes} bytes of sound in samples of {frame_bytes} bytes"
    return None


def find_unclaimed(file: BinaryIO, place: int, end: int) -> str | None:
    """Whether bytes behind the sound belong to no chunk: then there is more sound than the header says."""
    file.seek(place)
    rest = file.read(min(max(end - place, 0), 9))
    if not rest.strip(b"\0") or len(rest) == 1:
        return None
    names = (rest[:4], rest[1:5])  # the byte that makes a size even is sometimes forgotten
    if len(rest) >= 8 and any(len(name) == 4 and name.isascii() and is_printable(name) for name in names):
        return None
    return f"{end - place} bytes behind the sound are no chunk"


def is_printable(name: bytes) -> bool:
    """Whether the name of a chunk is text."""
    return all(32 <= byte < 127 for byte in name)
