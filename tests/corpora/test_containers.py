from __future__ import annotations

import os
import struct

import numpy as np
import pytest
import soundfile

from audiotag.corpora.containers import find_fault
from audiotag.corpora.probe import probe_file

RATE = 16000
SOUND = 0.1 * np.random.default_rng(0).standard_normal(RATE)
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "extensible.wav": ("WAVEX", "PCM_24"),
    "rf64.wav": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "float.aifc": ("AIFF", "FLOAT"),
    "au": ("AU", "ULAW"),
    "caf": ("CAF", "PCM_16"),
    "lossless.caf": ("CAF", "ALAC_16"),
    "sphere.wav": ("NIST", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}


@pytest.fixture(params=FORMATS)
def path(request, tmp_path):
    """A good file of each container."""
    container, subtype = FORMATS[request.param]
    path = tmp_path / f"a.{request.param}"
    soundfile.write(path, np.stack([SOUND, -SOUND], axis=1), RATE, format=container, subtype=subtype)
    return path


def test_good_files(path):
    assert find_fault(str(path)) is None
    assert probe_file(str(path)).problem is None


@pytest.mark.parametrize("share", [0.999, 0.9, 0.5, 0.2])
def test_files_that_were_cut_off(path, share):
    os.truncate(path, int(path.stat().st_size * share))
    assert find_fault(str(path)).startswith("truncated: ")
    assert probe_file(str(path)).problem.partition(":")[0] in ("truncated", "unreadable")


def test_tags_behind_the_sound(path):
    """They are no fault where the decoder knows that they are no sound."""
    probe = probe_file(str(path))
    with path.open("ab") as file:
        file.write(b"TAG" + bytes(125))
    if path.name in ("a.w64", "a.sphere.wav"):
        assert probe_file(str(path)).problem == (
            "unreadable: 128 bytes behind its sound are no sound; convert it"
        )
    else:
        assert probe_file(str(path)) == probe


@pytest.mark.parametrize(
    "riff_and_data", [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000), (0, 0xFFFFFFFF)]
)
def test_what_programs_leave_that_write_to_a_pipe(tmp_path, riff_and_data):
    path = tmp_path / "a.wav"
    soundfile.write(path, SOUND, RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[4:8], content[40:44] = (struct.pack("<I", size) for size in riff_and_data)
    path.write_bytes(content)
    assert probe_file(str(path))[:4] == (RATE, RATE, 1, None)


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (22, b"\2\0", "2 channels of 16 bits in 2 bytes"),
        (24, struct.pack("<I", 8000), "8000 Hz of 2 bytes, but 32000 bytes per second"),
        (34, b"\x08\0", "1 channels of 8 bits in 2 bytes"),
        (40, struct.pack("<I", 20000), "12000 bytes behind the sound are no chunk"),
        (40, struct.pack("<I", 20001), "20001 bytes of sound in samples of 2 bytes"),
    ],
)
def test_headers_that_contradict_themselves(tmp_path, place, value, problem):
    path = tmp_path / "a.wav"
    soundfile.write(path, SOUND, RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[place : place + len(value)] = value
    path.write_bytes(content)
    assert find_fault(str(path)) == f"unreadable: its header contradicts itself: {problem}"
    assert probe_file(str(path)).problem is not None


@pytest.mark.parametrize("is_padded", [True, False])
def test_chunks_behind_the_sound(tmp_path, is_padded):
    """Also behind an odd number of bytes, with and without the byte that makes it even."""
    path = tmp_path / "a.wav"
    soundfile.write(path, SOUND[:999], RATE, subtype="PCM_U8")
    content = path.read_bytes()[: 44 + 999]
    content += bytes(is_padded) + b"LIST" + struct.pack("<I", 12) + b"INFOISFT" + bytes(4)
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    assert probe_file(str(path))[:4] == (999, RATE, 1, None)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_pages_of_ogg(tmp_path, subtype):
    """A decoder drops a damaged page and says nothing."""
    path = tmp_path / "a.ogg"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((RATE, 2)), RATE, subtype=subtype)
    content = path.read_bytes()
    pages = [place for place in range(len(content)) if content[place : place + 4] == b"OggS"]
    assert len(pages) >= 4

    def fault(changed):
        path.write_bytes(changed)
        return find_fault(str(path))

    for place in (pages[2] + 20, pages[2] + 100, pages[3] - 1):
        changed = bytearray(content)
        changed[place] ^= 4
        assert fault(changed) == f"unreadable: the page at byte {pages[2]} is damaged"
    assert (
        fault(content[: pages[2]] + content[pages[3] :])
        == f"truncated: pages before byte {pages[2]} are missing"
    )
    assert fault(content[: pages[-1]]) == "truncated: the stream has no last page"
    assert fault(content[: pages[3]] + b"junk" + content[pages[3] :]) == (
        f"truncated: byte {pages[3]} begins no page"
    )
    assert fault(content) is None
