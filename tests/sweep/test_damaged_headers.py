"""Header fields with extreme and contradictory values.

A field that another one contradicts must not make other sound of the same bytes. A field that nothing
contradicts is believed; even then nothing hangs, breaks or takes gigabytes of memory.
"""

from __future__ import annotations

import struct

import pytest

from tests.sweep.damage import with_field
from tests.sweep.guard import guarded
from tests.sweep.sounds import SOUNDS, Outcome, attempted, load_whole, probed

BY_NAME = {sound.name: sound for sound in SOUNDS}
EXTREMES_16 = (0, 1, 0x7FFF, 0x8000, 0xFFFF)
EXTREMES_32 = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
# Offset and form of the fields of a plain wav of 16 bits, mono, 16 kHz, and the values they are given.
WAV_FIELDS = {
    "RIFF size": (4, "<I", (*EXTREMES_32, 8, 36, 100)),
    "fmt size": (16, "<I", (*EXTREMES_32, 14, 15, 17, 18, 40, 1000)),
    "format": (20, "<H", (*EXTREMES_16, 2, 3, 6, 7, 0x11, 0x31, 0x55, 0xFFFE)),
    "channels": (22, "<H", (*EXTREMES_16, 2, 3, 8, 1024, 1025)),
    "rate": (24, "<I", (*EXTREMES_32, 7, 100, 8000, 15999, 16001, 44100, 44101, 192001)),
    "byte rate": (28, "<I", EXTREMES_32),
    "block align": (32, "<H", (*EXTREMES_16, 3, 4)),
    "bits": (34, "<H", (*EXTREMES_16, 8, 12, 24, 32, 64)),
    "data size": (40, "<I", (*EXTREMES_32, 2, 9600, 19198, 19199, 19201, 19202)),
}
WAV_CASES = [
    (field, value)
    for field, (_, _, values) in WAV_FIELDS.items()
    for value in values
    if (field, value) != ("format", 1) and (field, value) != ("channels", 1)
]
# FLAC's STREAMINFO as bits from byte 18 on: rate, channels - 1, bits - 1, samples.
FLAC_FIELDS = {
    "rate": (44, 20, (0, 1, 8000, 15999, 44100, 655350, (1 << 20) - 1)),
    "channels": (41, 3, (1, 7)),
    "bits": (36, 5, (0, 3, 7, 23, 31)),
    "samples": (0, 36, (0, 1, 100, 4096, 9599, 9601, 20000, (1 << 36) - 1)),
}
FLAC_CASES = [(field, value) for field, (_, _, values) in FLAC_FIELDS.items() for value in values]
# The length of FLAC is in one place only, and libsndfile reads no more; frames are not asked for their rate.
BELIEVED = {("flac", "rate"), ("flac", "samples")}


def wav_with(field: str, value: int, content: bytes) -> bytes:
    """A wav with another value in a header field."""
    offset, form, _ = WAV_FIELDS[field]
    return with_field(offset, struct.pack(form, value))(content)


def flac_with(field: str, value: int, content: bytes) -> bytes:
    """A FLAC file with another value in its STREAMINFO."""
    shift, width, _ = FLAC_FIELDS[field]
    bits = int.from_bytes(content[18:26], "big")
    mask = ((1 << width) - 1) << shift
    return with_field(18, (bits & ~mask | value << shift).to_bytes(8, "big"))(content)


@pytest.fixture(scope="module")
def outcomes(module_folder):
    """What becomes of every header, by (format, field, value)."""
    folder = module_folder
    found = {}
    for name, cases, change in (
        ("pcm16.wav", WAV_CASES, wav_with),
        ("flac16.flac", FLAC_CASES, flac_with),
    ):
        path = folder / name
        content = BY_NAME[name].write(path)
        good = load_whole(str(path))

        def outcome(case, path=path, content=content, good=good, change=change):
            path.write_bytes(change(*case, content))
            return attempted(probed, str(path), good)

        for case, result in guarded(outcome, cases).items():
            key = (BY_NAME[name].extension, *case)
            found[key] = Outcome("broken", result) if isinstance(result, str) else result
    return found


ALL_CASES = [("wav", *case) for case in WAV_CASES] + [("flac", *case) for case in FLAC_CASES]


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: "-".join(map(str, case)))
def test_a_changed_field_makes_no_other_sound(outcomes, case):
    outcome = outcomes[case]
    believed = {"other"} if case[:2] in BELIEVED else set()
    assert outcome.kind in {"same", "refused"} | believed, outcome.detail


@pytest.mark.parametrize(
    "name",
    [
        "rf64.wav",
        "extensible-six.wav",
        "wave64.w64",
        "apple.aiff",
        "core.caf",
        "sun.au",
        "flac16.flac",
        "vorbis.ogg",
        "opus.opus",
        "layer3.mp3",
    ],
)
def test_no_byte_of_a_header_breaks_a_promise(tmp_path, name):
    """The first bytes, one at a time, as 0 and as 255."""
    path = tmp_path / name
    content = BY_NAME[name].write(path)
    good = load_whole(str(path))

    def outcome(case):
        place, value = case
        path.write_bytes(with_field(place, bytes([value]))(content))
        return attempted(probed, str(path), good)

    results = guarded(outcome, [(place, value) for place in range(96) for value in (0, 255)])
    failures = [
        f"byte {place} is {value}: {result}"
        for (place, value), result in results.items()
        if isinstance(result, str) or result.kind == "broken"
    ]
    assert not failures, "\n".join(failures)
