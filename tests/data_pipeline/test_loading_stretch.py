"""A random stretch of a clip is a slice of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import Recording
from manifests import record, write_manifest

from audiotag.corpora.features import extract_features
from audiotag.data.chance import Chance
from audiotag.data.crop import load_stretch, random_span
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio, load_features, read_plain_file
from audiotag.errors import DataError
from audiotag.frontend import Frontend

RATES = (8000, 16000, 22050, 44100, 48000)


def stretch(cut, longest_s, key=0, stored=False):
    return load_stretch(cut, stored=stored, longest_s=longest_s, chance=Chance(key))


def ramp(num_samples):
    """Samples that tell where they come from."""
    return np.linspace(-0.9, 0.9, num_samples)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", RATES)
def test_a_stretch_of_audio_is_a_slice_of_the_file(tmp_path, rate, extension, monkeypatch):
    """At the file's own rate, before any resampling: the same samples as reading all and cutting."""
    rng = np.random.default_rng(rate)
    samples = 0.1 * rng.standard_normal(3 * rate + 17)
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, samples, rate)
    num_samples = soundfile.info(path).frames
    cut = record("clip", num_samples / rate, path=str(path), rate=rate)
    cut["start"], cut["duration"] = 0.25, cut["duration"] - 0.25
    whole, _ = read_plain_file(cut)
    wanted, starts = round(0.7 * rate), []
    for key in range(6):
        span = random_span(len(whole), wanted, Chance(key).rng)
        assert span.stop - span.start == wanted
        starts.append(span.start)
        expected = whole[span, 0]
        read = stretch(cut, 0.7, key)
        if rate == 16000:
            # A lossy decoder that begins in the middle needs some frames before it is exact.
            atol = 0 if extension in ("wav", "flac") else 1e-3
            np.testing.assert_allclose(read, expected, atol=atol)
        else:
            assert abs(len(read) - 0.7 * 16000) <= 1
            part = {**cut, "start": (round(0.25 * rate) + span.start) / rate, "duration": wanted / rate}
            np.testing.assert_array_equal(read, load_audio(part))
    assert len(set(starts)) == 6


@pytest.mark.parametrize("rate", RATES)
def test_resampled_stretches_lie_where_they_should(tmp_path, rate):
    """Away from its edges, where the filter sees other samples, a stretch is that part of the whole clip."""
    path = tmp_path / "a.wav"
    time = np.arange(4 * rate) / rate
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 + 100 * time) * time), rate, subtype="FLOAT")
    cut = record("clip", 4.0, path=str(path), rate=rate)
    whole = load_audio(cut)
    for key in range(4):
        read = stretch(cut, 1.0, key)
        start_s = random_span(4 * rate, rate, Chance(key).rng).start / rate
        first = round(start_s * 16000)
        assert len(read) == 16000
        # Sample 0 may lie between two samples of the whole clip: up to half a sample of a 1 kHz sine.
        np.testing.assert_allclose(read[100:-100], whole[first + 100 : first + 15900], atol=0.07)


def test_starts_are_uniform_and_ends_are_reached():
    starts = [random_span(10, 7, Chance(key).rng).start for key in range(400)]
    assert set(starts) == {0, 1, 2, 3}
    assert min(np.bincount(starts)) > 60
    assert random_span(5, 7, Chance(0).rng) == slice(0, 5)


@pytest.mark.parametrize("stored", [False, True])
def test_short_clips_are_whole(long_clips, stored):
    plain, features = long_clips["ast128"]
    manifest, load = (features, load_features) if stored else (plain, load_audio)
    for longest_s in (None, 12.0, 11.7):
        np.testing.assert_array_equal(
            stretch(manifest.record(0), longest_s, stored=stored), load(manifest.record(0))
        )


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory):
    """Two clips of more than two chunks of 500 frames, and their stored features."""
    folder = tmp_path_factory.mktemp("long")
    records = []
    for name, num_samples in (("a", 11 * 16000 + 777), ("b", 6 * 16000 + 100)):
        samples = 0.1 * np.random.default_rng(num_samples).standard_normal(num_samples)
        soundfile.write(folder / f"{name}.wav", samples, 16000)
        records.append(record(name, num_samples / 16000, path=str(folder / f"{name}.wav")))
    plain = IndexedManifest(write_manifest(folder / "cuts.jsonl", records))
    manifests = {}
    for preset in ("icefall80", "ast128"):
        extract_features(plain, folder / preset / "cuts_train.jsonl", preset=preset)
        manifests[preset] = (plain, IndexedManifest(folder / preset / "cuts_train.jsonl"))
    return manifests


@pytest.mark.parametrize("preset", ["icefall80", "ast128"])
@pytest.mark.parametrize("longest_s", [0.3, 4.0, 5.0, 5.5])
def test_a_stretch_of_features_is_a_slice_of_the_matrix(long_clips, preset, longest_s):
    _, features = long_clips[preset]
    # As many frames as the front end makes of audio of that length.
    num_frames = Frontend(preset).num_frames(round(longest_s * 16000))
    for position in (0, 1):
        cut = features.record(position)
        whole = load_features(cut)
        starts = set()
        for key in range(8):
            read = stretch(cut, longest_s, key, stored=True)
            span = random_span(len(whole), num_frames, Chance(key).rng)
            np.testing.assert_array_equal(read, whole[span])
            starts.add(span.start)
        assert len(starts) > 4


def test_only_the_chunks_of_a_stretch_are_read(long_clips, tmp_path):
    """A part of the archive that is damaged does not matter to frames that lie elsewhere."""
    _, features = long_clips["ast128"]
    cut = features.record(0)
    content = bytearray(Path(cut["features"]["storage_path"]).read_bytes())
    start, first, *_ = map(int, cut["features"]["storage_key"].split(","))
    content[start : start + first] = bytes(first)
    path = tmp_path / "damaged.lca"
    path.write_bytes(content)
    damaged = {**cut, "features": {**cut["features"], "storage_path": str(path)}}
    np.testing.assert_array_equal(load_features(damaged, frames=(500, 1100)), load_features(cut)[500:1100])
    with pytest.raises(DataError, match="clip a: cannot read"):
        load_features(damaged, frames=(499, 1100))
    for key in range(10):
        if random_span(len(load_features(cut)), 98, Chance(key).rng).start >= 500:
            assert len(stretch(damaged, 1.0, key, stored=True)) == 98
        else:
            with pytest.raises(DataError, match="clip a: cannot read"):
                stretch(damaged, 1.0, key, stored=True)


def test_what_only_lhotse_can_read(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, ramp(32000), 16000, subtype="FLOAT")
    plain = Recording.from_file(path).to_cut()
    cut = plain.perturb_speed(0.8).to_dict()
    whole = load_audio(cut)
    span = random_span(40000, 8000, Chance(3).rng)
    np.testing.assert_allclose(stretch(cut, 0.5, 3)[50:-50], whole[span][50:-50], atol=1e-3)
    del cut["recording"]
    with pytest.raises(DataError, match="cannot read no audio"):
        stretch(cut, 0.5)


def test_a_stretch_of_features_that_are_longer_than_the_cut(long_clips):
    """A cut of another toolkit may point at a part of stored features."""
    _, features = long_clips["icefall80"]
    cut = features.record(0)
    part = {**cut, "start": 1.0, "duration": 4.0}
    whole = load_features(part)
    assert whole.shape == (400, 80)
    span = random_span(400, 200, Chance(5).rng)
    np.testing.assert_array_equal(stretch(part, 2.0, 5, stored=True), whole[span])


def test_stored_and_computed_stretches_are_equally_long(long_clips):
    plain, features = long_clips["icefall80"]
    frontend = Frontend("icefall80")
    samples = torch.from_numpy(stretch(plain.record(0), 5.0))[None]
    _, frames = frontend.extract(samples, torch.tensor([samples.shape[1]]))
    assert frames.item() == len(stretch(features.record(0), 5.0, stored=True)) == 500
