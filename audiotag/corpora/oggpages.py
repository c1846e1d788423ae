"""Notice Ogg files of which pages are missing or damaged: decoders pass over such pages without a word.

A page is `OggS`, version, flags, position (8 bytes), stream (4), number (4), checksum (4), the count of its
segments and their sizes, and then the segments. Bit 2 of the flags marks the first page of a stream, bit 4
the last. The checksum is a CRC-32 over the page with zeros in its place.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

HEADER_BYTES = 27
FIRST, LAST = 2, 4
# Ogg's CRC is that of zlib with all bits in the other order, and without its two inversions.
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def find_ogg_fault(file: BinaryIO) -> str | None:
    """What is wrong with the pages of an Ogg file that is open at its start, or None."""
    next_number: dict[int, int] = {}
    while True:
        place = file.tell()
        header = file.read(HEADER_BYTES)
        if header[:4] != b"OggS":
            if not next_number:  # all streams have ended; what follows is no part of them
                return None
            what = f"byte {place} begins no page" if header else "the stream has no last page"
            return f"truncated: {what}"
        sizes = file.read(header[26]) if len(header) == HEADER_BYTES else b""
        body = file.read(sum(sizes))
        if len(header) < HEADER_BYTES or len(sizes) < header[26] or len(body) < sum(sizes):
            return "truncated: the last page of the stream is cut off"
        flags, stream, number, checksum = struct.unpack("<5xB8xIII", header[:26])
        if checksum != page_checksum(header[:22] + bytes(4) + header[26:] + sizes + body):
            return f"unreadable: the page at byte {place} is damaged"
        if flags & FIRST:
            next_number[stream] = number
        if next_number.get(stream) != number:
            return f"truncated: pages before byte {place} are missing"
        next_number[stream] += 1
        if flags & LAST:
            del next_number[stream]


def page_checksum(page: bytes) -> int:
    """The CRC-32 that Ogg uses."""
    mirrored = zlib.crc32(page.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
