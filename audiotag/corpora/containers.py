"""Notice audio files that were cut off or damaged, by what their containers promise.

Libsndfile reports the shorter length of such a file without a word; only some compressed formats fail to
decode.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from audiotag.corpora.oggpages import find_ogg_fault
from audiotag.corpora.wavheader import MAX_CHUNKS, chunks, find_wav_fault

MAGIC_BYTES = 16
# What a program leaves as the size that writes to a pipe and never learns it.
UNKNOWN_SIZE = 0xFFFFFFFF
W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
NIST = b"NIST_1A"
W64_DATA = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")


def find_fault(path: str) -> str | None:
    """What a container shows to be wrong, as `<reason>: <details>`, or None."""
    with Path(path).open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        magic = file.read(MAGIC_BYTES)
        file.seek(0)
        if magic[:4] == b"OggS":
            return find_ogg_fault(file)
        if magic[:4] in (b"RIFF", b"RF64") and magic[8:12] == b"WAVE":
            return find_wav_fault(file, file_bytes)
        if magic[:4] == b"caff":
            return find_caf_fault(file, file_bytes)
        promised, left = promised_and_left(file, magic, file_bytes)
        if left < promised:
            return f"truncated: the header promises {promised} bytes of sound, {left} are there"
        # Libsndfile takes all that is behind the header of these two for sound, but for what aligns chunks.
        if (magic == W64_RIFF and left > promised + 7) or (magic.startswith(NIST) and left > promised > 0):
            return f"unreadable: {left - promised} bytes behind its sound are no sound; convert it"
    return None


def promised_and_left(file: BinaryIO, magic: bytes, file_bytes: int) -> tuple[int, int]:
    """Bytes of sound that a header promises and that can be there; 0 where it promises nothing."""
    promised = None
    if magic.startswith(NIST):
        promised = find_nist_sound(file)
    elif magic[:4] == b"FORM" and magic[8:12] in (b"AIFF", b"AIFC"):
        promised = next((size for name, size in chunks(file, 12, ">") if name == b"SSND"), None)
    elif magic == W64_RIFF:
        promised = find_w64_sound(file)
    elif magic[:4] == b".snd" and len(magic) == MAGIC_BYTES:
        start, promised = struct.unpack(">II", magic[4:12])
        file.seek(start)
    if promised is None or promised == UNKNOWN_SIZE:
        return 0, 0
    return promised, file_bytes - file.tell()


def find_w64_sound(file: BinaryIO) -> int | None:
    """Bytes of sound that Sony's Wave64 promises, with the file at their start.

    Names have 16 bytes, sizes have 8 and count the header, and chunks begin at multiples of 8.
    """
    start = 40
    for _ in range(MAX_CHUNKS):
        file.seek(start)
        header = file.read(24)
        if len(header) < 24:
            break
        size = struct.unpack("<Q", header[16:])[0]
        if header[:16] == W64_DATA:
            return size - 24
        start += -(-max(size, 24) // 8) * 8
    return None


def find_nist_sound(file: BinaryIO) -> int | None:
    """The same for NIST Sphere, whose header is text: its own size, then lines `name -i value`."""
    try:
        header_bytes = int(file.read(MAGIC_BYTES).split()[1])
        file.seek(0)
        fields = {}
        for line in file.read(header_bytes).decode("latin-1").splitlines():
            name, _, value = line.partition(" -i ")
            fields[name] = value
        frame_bytes = int(fields["sample_n_bytes"]) * int(fields.get("channel_count", 1))
        return int(fields["sample_count"]) * frame_bytes
    except (ValueError, KeyError, IndexError):
        return None


def find_caf_fault(file: BinaryIO, file_bytes: int) -> str | None:
    """Whether a file in the Core Audio Format has all its chunks; the last may say how long the sound is."""
    start = 8
    for _ in range(MAX_CHUNKS):
        file.seek(start)
        header = file.read(12)
        if len(header) < 12:
            break
        name, size = struct.unpack(">4sq", header)
        start += 12 + size
        if name == b"data" and size == -1:  # up to the end, and so it is the last
            return None
        if size < 0 or start > file_bytes:
            return f"truncated: its chunk {name.decode('latin-1')!r} is cut off"
    return None
