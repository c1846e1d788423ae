"""What else a path can lead to: no file, no sound, sound under another name, and values no recording has."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiotag.corpora.probe import probe_file
from audiotag.corpora.probecache import probe_files
from tests.sweep.guard import guarded
from tests.sweep.sounds import SOUNDS, Outcome, attempted, load_whole, probed

RATE = 16000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32)
TEXT = b"This is a sentence, not a sound.\n" * 40
HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>\n" * 20
EXTENSIONS = ("wav", "flac", "ogg", "opus", "mp3", "m4a", "aiff", "w64", "caf")
# libsndfile takes any bytes for sound when their name ends so; soundfile asks for the rate of the last.
HEADERLESS = ("au", "snd", "vox", "gsm", "raw")


def outcome_of(path: Path) -> Outcome:
    """What becomes of a path."""
    return attempted(probed, str(path), NOISE)


def watched(path: Path) -> Outcome:
    """The same with the watchdog, which takes a process for each."""
    result = guarded(lambda _: attempted(probed, str(path), NOISE), [0], patience_s=10.0)[0]
    return result if isinstance(result, Outcome) else Outcome("broken", result)


def refused(path: Path) -> str:
    """The reason for which a path is refused."""
    outcome = outcome_of(path)
    assert outcome.kind == "refused", outcome
    return outcome.detail


def make_fifo(path):
    os.mkfifo(path)


def make_directory(path):
    path.mkdir()


def make_link_to_nothing(path):
    path.symlink_to(path.with_name("gone.wav"))


def make_link_to_itself(path):
    path.symlink_to(path)


def make_link_to_directory(path):
    path.symlink_to(path.parent)


def make_link_to_endless_zeros(path):
    path.symlink_to("/dev/zero")


def make_link_to_nowhere(path):
    path.symlink_to("/dev/null")


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def make_sparse(path):
    path.touch()
    os.truncate(path, 1 << 33)


@pytest.mark.parametrize(
    "make",
    [
        make_fifo,
        make_directory,
        make_link_to_nothing,
        make_link_to_itself,
        make_link_to_directory,
        make_link_to_endless_zeros,
        make_link_to_nowhere,
        make_socket,
        make_sparse,
        lambda path: None,
    ],
    ids=lambda make: make.__name__,
)
@pytest.mark.parametrize("extension", ["wav", "mp3"])
def test_what_is_no_file(tmp_path, monkeypatch, make, extension):
    monkeypatch.chdir(tmp_path)  # the path of a socket has room for about 100 characters
    path = Path(f"x.{extension}")
    make(path if make is make_socket else tmp_path / path)
    outcome = watched(tmp_path / path)
    assert outcome.kind == "refused", outcome


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, NOISE, RATE)
    path.chmod(0)
    assert "ermission" in refused(path) or "ystem error" in refused(path)


@pytest.mark.parametrize("name", ["a\0b.wav", "n" * 300 + ".wav", "x.wav/y.wav", ""])
def test_names_that_no_file_can_have(tmp_path, name):
    soundfile.write(tmp_path / "x.wav", NOISE, RATE)
    refused(Path(str(tmp_path) + "/" + name))


@pytest.mark.parametrize(
    "name", ["line\nbreak.wav", "sp ace.wav", "quote'\".wav", "ünï.wav", "-x.wav", "日本.wav"]
)
def test_names_that_are_only_unusual(tmp_path, name):
    soundfile.write(tmp_path / name, NOISE, RATE, subtype="FLOAT")
    assert outcome_of(tmp_path / name).kind == "same"


def test_a_name_that_is_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    soundfile.write(tmp_path / "x.wav", NOISE, RATE, subtype="FLOAT")
    os.rename(tmp_path / "x.wav", path)  # noqa: PTH104 (a name of bytes)
    path = os.fsdecode(path)
    assert outcome_of(Path(path)).kind in ("same", "refused")
    first = probe_files([path], cache=tmp_path / "probes.jsonl")
    assert probe_files([path], cache=tmp_path / "probes.jsonl") == first


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        HTML,
        b"\0" * 4000,
        b"\xff" * 4000,
        b"\n",
        b"RIFF\0\0\0\0WAVE",
        b"OggS",
        b"fLaC",
        b"ID3\x04\0\0\0\0\0\0",
    ],
    ids=["text", "html", "zeros", "ones", "newline", "wav", "ogg", "flac", "mp3"],
)
def test_what_is_no_sound(tmp_path, content, extension):
    path = tmp_path / f"x.{extension}"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("extension", HEADERLESS)
@pytest.mark.parametrize("content", [TEXT, HTML, NOISE.tobytes()], ids=["text", "html", "samples"])
def test_no_name_makes_sound_of_any_bytes(tmp_path, content, extension):
    path = tmp_path / f"x.{extension}"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("extension", [*EXTENSIONS, *HEADERLESS, "WAV", "txt", "", "html"])
@pytest.mark.parametrize("name", ["pcm16.wav", "flac16.flac", "vorbis.ogg", "layer3.mp3", "apple.aiff"])
def test_sound_under_another_name(tmp_path, name, extension):
    """It is what it is, or it is refused; a part of it is refused under any name."""
    sound = next(sound for sound in SOUNDS if sound.name == name)
    path = tmp_path / name
    content = sound.write(path)
    good = load_whole(str(path))
    other = tmp_path / f"other.{extension}"
    other.write_bytes(content)
    assert attempted(probed, str(other), good).kind in ("same", "refused")
    other.write_bytes(content[:-40])
    assert attempted(probed, str(other), good).kind == "refused"


def long_sound(path, **options):
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, 30 * RATE)
    soundfile.write(path, samples, RATE, **options)
    return path.read_bytes()


@pytest.mark.parametrize("extension", ["flac", "mp3", "ogg"])
def test_a_long_file_that_lacks_its_last_frame(tmp_path, extension):
    """A frame is less than a hundredth of half a minute, whatever the file is called."""
    options = {"format": "FLAC"}
    path = tmp_path / f"x.{extension}"
    content = long_sound(path, **options)
    frames = [
        place for place in range(len(content) - 2) if content[place : place + 2] in (b"\xff\xf8", b"\xff\xf9")
    ]
    path.write_bytes(content[: frames[-1]])
    refused(path)


def test_a_long_mp3_that_lacks_its_last_frame(tmp_path):
    """Mp3 has no exact length: one frame of many is within the tolerance, a hundredth is not."""
    path = tmp_path / "x.mp3"
    content = long_sound(path)
    good = load_whole(str(path))
    path.write_bytes(content[:-100])
    outcome = attempted(probed, str(path), good)
    assert outcome.kind in ("same", "refused", "other"), outcome
    assert probe_file(str(path)).num_samples > 0.99 * len(good)
    path.write_bytes(content[: int(0.98 * len(content))])
    refused(path)


def constant(value, count=RATE):
    return np.full(count, value, dtype=np.float64)


def with_value(value, place=777):
    samples = NOISE.astype(np.float64)
    samples[place] = value
    return samples


@pytest.mark.parametrize(
    "samples",
    [
        with_value(np.nan),
        with_value(np.inf),
        with_value(-np.inf),
        with_value(np.nan, place=-1),
        constant(np.nan),
        with_value(1e300),
        constant(0.0),
        constant(0.25),
        constant(-1.0),
        constant(0.0, count=0),
        constant(1e-9) * np.resize([1, -1], RATE),
    ],
    ids=["nan", "inf", "-inf", "nan at the end", "all nan", "1e300", "zeros", "dc", "-1", "none", "too soft"],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_values_that_are_no_recording(tmp_path, samples, channels):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack([samples] * channels, axis=1), RATE, subtype="DOUBLE")
    refused(path)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("value", [3.0e38, -3.0e38, 1e30])
def test_values_near_the_largest_float_stay_finite(tmp_path, value, channels):
    """Each sample is finite, their sum over the channels may not be."""
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack([with_value(value)] * channels, axis=1), RATE, subtype="FLOAT")
    outcome = outcome_of(path)
    assert outcome.kind in ("refused", "other"), outcome


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 192000])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_a_few_samples(tmp_path, count, rate):
    path = tmp_path / "x.wav"
    soundfile.write(path, NOISE[:count], rate)
    outcome = outcome_of(path)
    assert outcome.kind in ("refused", "other"), outcome


@pytest.mark.parametrize(
    "rate", [1, 100, 999, 3999, 11111, 15999, 16001, 44101, 96001, 192001, 384000, 2**31 - 1]
)
@pytest.mark.parametrize("extension", ["wav", "aiff"])
def test_unusual_rates_cost_no_gigabytes(tmp_path, rate, extension):
    path = tmp_path / f"x.{extension}"
    soundfile.write(path, NOISE[:4000], rate)
    outcome = watched(path)
    assert outcome.kind in ("refused", "other"), outcome


def test_a_wav_that_says_more_than_its_file_can_hold(tmp_path):
    """Nothing is set aside for samples that a header only promises."""
    path = tmp_path / "x.flac"
    soundfile.write(path, NOISE, RATE)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)
    refused(path)


def test_many_files_at_once_are_judged_like_single_ones(tmp_path):
    """Through the cache and two processes, with files among them that cannot be opened."""
    paths = []
    for number, sound in enumerate(SOUNDS[:8]):
        good = sound.write(tmp_path / sound.name)
        (tmp_path / f"cut-{number}.wav").write_bytes(good[: len(good) // 2])
        paths += [str(tmp_path / sound.name), str(tmp_path / f"cut-{number}.wav")]
    make_fifo(tmp_path / "fifo.wav")
    make_directory(tmp_path / "folder.wav")
    paths += [str(tmp_path / name) for name in ("fifo.wav", "folder.wav", "gone.wav")]
    singly = {path: probe_file(path) for path in paths}
    assert probe_files(paths, cache=tmp_path / "one.jsonl") == singly
    assert probe_files(paths, cache=tmp_path / "one.jsonl") == singly
    assert probe_files(paths * 4, cache=tmp_path / "two.jsonl", num_jobs=2) == singly
