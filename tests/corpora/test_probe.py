from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiotag.corpora.probe import probe_file, probe_part
from audiotag.corpora.probecache import probe_files
from audiotag.errors import StorageError

RATE = 16000
SOUND = (0.1 * np.random.default_rng(0).standard_normal(2 * RATE)).astype(np.float32)
# Format, encoding and the share of the file that is kept in the test of truncation.
FORMATS = {
    "wav": {"subtype": "PCM_16"},
    "flac": {},
    "ogg": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {},
}


def write(path, samples=SOUND, rate=RATE, **options):
    soundfile.write(path, samples, rate, **options)
    return str(path)


@pytest.mark.parametrize("extension", FORMATS)
def test_good_files_of_every_format(tmp_path, extension):
    probe = probe_file(write(tmp_path / f"a.{extension}", **FORMATS[extension]))
    assert probe.problem is None
    assert probe.duration_s == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_truncated_files_of_every_format(tmp_path, extension, share):
    path = tmp_path / f"a.{extension}"
    write(path, **FORMATS[extension])
    os.truncate(path, int(path.stat().st_size * share))
    assert probe_file(str(path)).problem.partition(":")[0] in ("truncated", "unreadable")


def test_a_wav_that_lacks_its_last_byte(tmp_path):
    path = tmp_path / "a.wav"
    write(path)
    os.truncate(path, path.stat().st_size - 1)
    assert (
        probe_file(str(path)).problem
        == "truncated: the header promises 64000 bytes of sound, 63999 are there"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty: the file has zero bytes"),
        (b"this is not sound\n" * 100, "unreadable: "),
        (bytes(5000), "unreadable: "),
        (b"RIFF", "unreadable: "),
        (b"\xff" * 5000, "unreadable: "),
    ],
)
def test_what_is_no_audio(tmp_path, content, problem):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert probe_file(str(path)).problem.startswith(problem)


def test_headers_without_sound(tmp_path):
    path = tmp_path / "a.wav"
    write(path)
    os.truncate(path, 44)
    assert probe_file(str(path)).problem == "truncated: the header promises 64000 bytes of sound, 0 are there"
    assert probe_file(write(tmp_path / "b.wav", np.zeros(0))).problem == "empty: no samples"


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_silence(tmp_path, value):
    assert probe_file(write(tmp_path / "a.wav", np.full(RATE, value))).problem.startswith("silent")
    soft = np.full(RATE, value)
    soft[100:200] += 5 / 32768
    assert probe_file(write(tmp_path / "b.wav", soft)).problem is None


def test_samples_that_are_no_numbers(tmp_path):
    sound = SOUND.copy()
    sound[77] = np.nan
    assert probe_file(write(tmp_path / "a.wav", sound, subtype="FLOAT")).problem.startswith("not finite")


def test_rate_channels_and_extra_chunks(tmp_path):
    path = tmp_path / "a.wav"
    write(path, np.stack([SOUND, -SOUND], axis=1), 44100, subtype="PCM_24")
    content = path.read_bytes()
    path.write_bytes(content[:12] + b"LIST" + struct.pack("<I", 5) + b"12345\0" + content[12:])
    assert probe_file(str(path))[:4] == (2 * RATE, 44100, 2, None)


def test_a_stream_that_never_learnt_its_length(tmp_path):
    """Programs that write to a pipe leave the largest number as the size."""
    path = tmp_path / "a.wav"
    write(path)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    assert probe_file(str(path))[:4] == (2 * RATE, RATE, 1, None)


SUBTYPES = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM"]


@pytest.mark.parametrize("subtype", SUBTYPES)
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (11127, 6), (192000, 1)])
def test_every_kind_of_wav(tmp_path, subtype, rate, channels):
    channels = min(channels, 2) if subtype == "IMA_ADPCM" else channels
    rng = np.random.default_rng(0)
    sound = 0.1 * rng.standard_normal((8000, channels))
    probe = probe_file(write(tmp_path / "a.wav", sound, rate, subtype=subtype))
    assert probe[1:4] == (rate, channels, None)
    # The last block of ADPCM is filled up.
    assert 8000 <= probe.num_samples <= (12000 if subtype == "IMA_ADPCM" else 8000)
    assert probe.level_dbfs == pytest.approx(-20.0, abs=1.0)
    assert probe.peak == pytest.approx(np.abs(sound).max(), rel=0.2)


def test_level_and_peak(tmp_path):
    square = np.resize([0.5, 0.5, -0.5, -0.5], RATE)
    probe = probe_file(write(tmp_path / "a.wav", square, subtype="FLOAT"))
    assert (probe.level_dbfs, probe.peak) == (pytest.approx(-6.021, abs=1e-3), 0.5)
    # The level is that of all channels together.
    probe = probe_file(write(tmp_path / "b.wav", np.stack([square, 0 * square], axis=1), subtype="FLOAT"))
    assert probe.level_dbfs == pytest.approx(-9.031, abs=1e-3)
    probe = probe_file(write(tmp_path / "c.wav", -40 * square, subtype="FLOAT"))
    assert (probe.level_dbfs, probe.peak) == (pytest.approx(26.021, abs=1e-3), 20.0)
    # More than one block of reading.
    probe = probe_file(write(tmp_path / "d.flac", np.resize(square, 600_000)))
    assert probe.num_samples == 600_000 and probe.level_dbfs == pytest.approx(-6.021, abs=1e-3)
    assert probe_file(write(tmp_path / "e.wav", 0 * square)).level_dbfs is None


def test_the_same_sound_in_all_lossless_formats(tmp_path):
    steps = np.round(SOUND * 32768) / 32768
    steps[:100] = -0.0
    files = {"a.wav": "PCM_16", "b.wav": "PCM_24", "c.wav": "PCM_32", "d.wav": "FLOAT", "e.wav": "DOUBLE"}
    files |= {
        "f.flac": "PCM_16",
        "g.flac": "PCM_24",
        "h.aiff": "PCM_16",
        "i.au": "PCM_16",
        "j.caf": "ALAC_16",
    }
    sounds = {probe_file(write(tmp_path / name, steps, subtype=sub)).sound for name, sub in files.items()}
    assert len(sounds) == 1
    others = [
        probe_file(write(tmp_path / "k.wav", steps, 8000)),
        probe_file(write(tmp_path / "l.wav", np.stack([steps, steps], axis=1))),
        probe_file(write(tmp_path / "m.wav", steps[:-1])),
        probe_file(write(tmp_path / "n.wav", np.append(steps[:-1], steps[-1] + 2 / 32768))),
        probe_file(write(tmp_path / "o.mp3", steps)),
    ]
    assert len(sounds | {probe.sound for probe in others}) == 6


def test_a_part_of_a_file(tmp_path):
    """What a part holds is what a file of that part would hold."""
    for extension in ("wav", "flac"):
        path = write(tmp_path / f"a.{extension}", np.concatenate([0 * SOUND, SOUND]))
        part = probe_part(path, 2.5, 1.0)
        cut_out = probe_file(write(tmp_path / f"b.{extension}", SOUND[RATE // 2 : 3 * RATE // 2]))
        assert part == cut_out and part.problem is None
        assert probe_part(path, 0.5, 1.0).is_silent
        assert probe_part(path, 5.0, 1.0).problem.startswith("unreadable")
        assert probe_part(path, 3.5, 1.0).num_samples == RATE // 2


def test_a_name_that_is_not_utf8(tmp_path):
    path = write(tmp_path / "a.wav")
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    Path(path).rename(name)
    assert probe_file(name).problem == "unreadable: its name is not UTF-8; rename it"
    # The cache copes with such names too.
    for _ in range(2):
        assert probe_files([name], cache=tmp_path / "probes.jsonl")[name] == probe_file(name)


def test_a_damaged_line_of_the_cache_is_no_result(tmp_path):
    paths = [write(tmp_path / f"{name}.wav") for name in "ab"]
    cache = tmp_path / "probes.jsonl"
    probes = probe_files(paths, cache=cache)
    content = cache.read_bytes()
    for digit in (b"32000", b"16000", b"-20.0"):
        assert digit in content
        cache.write_bytes(content.replace(digit, digit[:-1] + b"7"))
        assert probe_files(paths, cache=cache) == probes
    cache.unlink()
    cache.mkdir()
    with pytest.raises(StorageError, match=rf"{cache} cannot be read and written \(Is a directory\): remove"):
        probe_files(paths, cache=cache)


def test_results_are_kept_until_the_file_changes(tmp_path):
    cache = tmp_path / "deep" / "probes.jsonl"
    paths = [write(tmp_path / f"{name}.wav") for name in "abc"]
    assert all(probe.problem is None for probe in probe_files(paths, cache=cache).values())
    # An interrupted run leaves half a line.
    with cache.open("r+") as file:
        file.truncate(cache.stat().st_size - 20)
    # Same size and time, other content: the cache answers.
    before = Path(paths[0]).stat()
    with Path(paths[0]).open("r+b") as file:
        file.write(b"JUNK")
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    os.truncate(paths[1], 1000)
    again = probe_files([*paths, str(tmp_path / "gone.wav")], cache=cache)
    assert again[paths[0]].problem is None
    assert again[paths[1]].problem.startswith("truncated")
    assert again[paths[2]].problem is None
    assert again[str(tmp_path / "gone.wav")].problem == "missing: no such file"
    assert cache.read_bytes().endswith(b"\n") and len(cache.read_text().splitlines()) == 6
    os.utime(paths[0], ns=(0, 0))
    assert probe_files(paths, cache=cache)[paths[0]].problem.startswith("unreadable")


def test_several_processes_give_the_same(tmp_path):
    paths = [write(tmp_path / f"{number}.wav", SOUND[: 100 + number]) for number in range(70)]
    os.truncate(paths[40], 60)
    one = probe_files(paths, cache=tmp_path / "one")
    two = probe_files(paths, cache=tmp_path / "two", num_jobs=2)
    assert one == two
    assert [probe.num_samples for probe in one.values()][:40] == list(range(100, 140))
    assert [path for path, probe in one.items() if probe.problem] == [paths[40]]
