"""What is done to audio files, by what the files can show of it."""

from __future__ import annotations

from tests.sweep import damage

# Whatever happens to the bytes, sound is missing, or nothing that belongs to it has changed.
TO_LENGTH = {
    **{f"cut to {length} bytes": damage.cut_to(length) for length in (0, 1, 10, 22, 44, 60, 120)},
    **{f"cut to {share:.0%}": damage.cut_to_share(share) for share in (0.1, 0.5, 0.9, 0.99)},
    **{f"without the last {count} bytes": damage.cut_to(-count) for count in (300, 40, 2, 1)},
    "without 200 bytes near the start": damage.without(0.1, 200),
    "without 300 bytes in the middle": damage.without(0.5, 300),
    "without one byte in the middle": damage.without(0.5, 1),
    "noise in front": damage.prepended(damage.noise(100)),
    "HTML in front": damage.prepended(b"<!DOCTYPE html>\n"),
    "zeros in front": damage.prepended(bytes(1024)),
    "ID3 in front": damage.prepended(b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)),
    "noise behind": damage.appended(damage.noise(100)),
    "zeros behind": damage.appended(bytes(1000)),
    "one byte behind": damage.appended(b"\0"),
    "ID3 behind": damage.appended(b"TAG" + bytes(125)),
    "twice": lambda content: content + content,
    "one and a half times": lambda content: content + content[: len(content) // 2],
}
# The length stays, and only a checksum can tell.
TO_BITS = {
    "a zeroed block near the start": damage.overwritten(0.25, 256),
    "a zeroed block in the middle": damage.overwritten(0.5, 256),
    "a block of ones in the middle": damage.overwritten(0.5, 256, 255),
    "a zeroed block at the end": damage.overwritten(1.0, 64),
    "a zeroed half": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    **{f"a bit of the body, {seed}": damage.with_flips(seed, 0.1, 1.0) for seed in range(6)},
    **{f"20 bits of the body, {seed}": damage.with_flips(seed, 0.1, 1.0, 20) for seed in range(3)},
}
# Headers have no checksums either: a rate or a number of channels can turn into another good one.
TO_HEADERS = {
    "a zeroed start": damage.overwritten(0.0, 16),
    **{f"a bit of the header, {seed}": damage.with_flips(seed, 0, 100) for seed in range(8)},
}
DAMAGES = {**TO_LENGTH, **TO_BITS, **TO_HEADERS}
