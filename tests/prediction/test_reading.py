"""Windows of files that are read in one go are those that an evaluation reads one by one."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import soundfile

from audiotag.corpora.probe import probe_file
from audiotag.data.crop import load_stretch, load_window
from audiotag.evaluation.windows import Windowing
from audiotag.prediction import reading
from audiotag.prediction.reading import UnusableFile, header_duration, read_windows
from tests.prediction.sounds import noise, write
from tests.sweep.sounds import SOUNDS, cut_of

DURATIONS = (0.4, 1.0, 1.0009, 1.3, 1.5, 1.5005, 2.0, 2.75, 3.5, 7.01)


def evaluated(path, window_s, hop_s):
    """The windows of a file as `WindowDataset` reads them."""
    record = cut_of(str(path), probe_file(str(path)))
    windowing = Windowing(window_s, hop_s, "sigmoid")
    count = int(windowing.counts(np.array([record["duration"]], np.float32))[0])
    if count == 1:
        return [load_stretch(record, stored=False, longest_s=None, chance=None)]
    starts = [number * hop_s for number in range(count - 1)] + [np.inf]
    return [load_window(record, stored=False, window_s=window_s, start_s=start) for start in starts]


def assert_same(path, window_s, hop_s):
    windows = list(read_windows(str(path), window_s, hop_s))
    expected = evaluated(path, window_s, hop_s)
    assert [len(window.samples) for window in windows] == [len(samples) for samples in expected]
    for window, samples in zip(windows, expected, strict=True):
        # What a decoder of mp3 yields depends, by a rounding, on where it began.
        np.testing.assert_allclose(window.samples, samples, rtol=0, atol=1e-6 if path.suffix == ".mp3" else 0)
    return windows


@pytest.mark.parametrize("block", [1 << 18, 1000, 16000])
@pytest.mark.parametrize("hop_s", [1.0, 0.5, 0.3])
@pytest.mark.parametrize("rate", [16000, 44100, 11025])
def test_windows_are_those_of_an_evaluation(tmp_path, monkeypatch, rate, hop_s, block):
    """Of any length, rate and hop, however the blocks that are read lie to them."""
    monkeypatch.setattr(reading, "BLOCK_VALUES", block)
    for number, duration in enumerate(DURATIONS):
        path = write(tmp_path / f"{number}.wav", duration, rate)
        windows = assert_same(path, 1.0, hop_s)
        assert windows[0].start_s == 0.0
        assert windows[-1].end_s == soundfile.info(path).frames / rate


@pytest.mark.parametrize("sound", SOUNDS, ids=lambda sound: sound.name)
def test_every_format_rate_and_number_of_channels(tmp_path, sound):
    path = tmp_path / sound.name
    sound.write(path)
    assert_same(path, 10.0, 5.0)
    assert_same(path, 0.25, 0.1)
    assert header_duration(str(path)) == pytest.approx(probe_file(str(path)).duration_s, rel=0.02)


def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path):
    """An hour at 8 kHz, which is 230 MB of float32 at 16 kHz."""
    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_U8") as file:
        for minute in range(60):
            file.write(noise(60 * 8000, seed=minute))
    tracemalloc.start()
    try:
        count, end_s = 0, 0.0
        for window in read_windows(str(path), 10.0, 5.0):
            count, end_s = count + 1, window.end_s
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (count, end_s) == (719, 3600.0)
    assert peak < 12e6


def damaged_wav(path):
    path.write_bytes(path.read_bytes()[:-5000])
    return "truncated"


def damaged_flac(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    path.write_bytes(data)
    return "unreadable"


def empty(path):
    path.write_bytes(b"")
    return "empty: the file has zero bytes"


def no_samples(path):
    soundfile.write(path, np.zeros((0, 1)), 16000)
    return "empty: no samples"


def not_finite(path):
    samples = noise(40000)
    samples[39000] = np.nan
    soundfile.write(path, samples, 16000, subtype="FLOAT", format="WAV")
    return "not finite"


def gone(path):
    path.unlink()
    return "missing: no such file"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("x.wav", damaged_wav),
        ("x.flac", damaged_flac),
        ("x.wav", empty),
        ("x.wav", no_samples),
        ("x.wav", not_finite),
        ("x.ogg", gone),
    ],
)
def test_files_that_cannot_be_used_say_why(tmp_path, name, damage):
    path = write(tmp_path / name, 3.0)
    reason = damage(path)
    with pytest.raises(UnusableFile, match=reason):
        list(read_windows(str(path), 1.0, 0.5))


def test_formats_without_a_decoder_are_named(tmp_path):
    path = tmp_path / "x.m4a"
    path.write_bytes(b"\x00\x00\x00\x20ftypM4A " + bytes(100))
    with pytest.raises(UnusableFile, match="no decoder for m4a here"):
        list(read_windows(str(path), 1.0, 0.5))
