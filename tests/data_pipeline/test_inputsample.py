"""Levels by which clips that have changed behind their manifest are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from lhotse.features.io import LilcomChunkyWriter, NumpyFilesWriter

from audiotag.data.dataset import ClipDataset
from audiotag.data.index import IndexedManifest
from audiotag.data.inputsample import (
    NUM_BANDS,
    TOLERANCE,
    bands_of,
    check_sample,
    keep_sample,
    levels_of,
    sample_inputs,
    sampled_positions,
)
from tests.data_pipeline.manifests import noise_clips, record, write_manifest

RATE = 16000


def dataset_of(manifest, storage="on_the_fly") -> ClipDataset:
    return ClipDataset(IndexedManifest(manifest), storage=storage, num_classes=5)


def rewrite(manifest, change, **options) -> None:
    """Write the audio of a manifest's clips anew."""
    for line in manifest.read_text().splitlines():
        path = json.loads(line)["recording"]["sources"][0]["source"]
        samples, rate = soundfile.read(path, dtype="float32")
        soundfile.write(path, change(samples), rate, **options)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda samples: samples, True),
        (lambda samples: np.roll(samples, 300), True),  # another decoder's beginning
        (lambda samples: samples + np.float32(1e-5), True),
        (lambda samples: 0.94 * samples, False),
        (lambda samples: (samples + np.roll(samples, 1)) / 2, False),  # a low-pass filter
    ],
    ids=["copied", "shifted", "rounded", "quieter", "filtered"],
)
def test_other_audio_is_known_and_the_same_is_not_taken_for_other(tmp_path, change, same):
    manifest = noise_clips(tmp_path, 24)
    kept = tmp_path / "kept.npz"
    keep_sample(kept, sample_inputs(dataset_of(manifest)))
    rewrite(manifest, change, subtype="PCM_24")
    levels = sample_inputs(dataset_of(manifest))
    assert levels.shape == (16, NUM_BANDS) and np.isfinite(levels).all()
    if same:
        check_sample(kept, levels)
    else:
        with pytest.raises(ValueError, match=r"16 of 16 compared clips are not as kept.npz has them"):
            check_sample(kept, levels)


def stored_clips(folder, features, writer) -> list[dict]:
    """Cuts of stored features, without checksums of ours, as other programs write them."""
    records = []
    with writer(folder) as store:
        for number, values in enumerate(features):
            about = {"type": "fbank", "num_frames": len(values), "num_features": 80, "frame_shift": 0.01}
            about |= {"sampling_rate": RATE, "start": 0.0, "duration": len(values) / 100, "channels": 0}
            about |= {"storage_type": store.name, "storage_path": str(store.storage_path)}
            about |= {"storage_key": store.write(f"c{number}", values)}
            records.append({**record(f"c{number}", len(values) / 100), "features": about})
    return records


def test_features_that_were_stored_anew_are_known(tmp_path):
    rng = np.random.default_rng(1)
    features = [rng.standard_normal((20 + number, 80)).astype(np.float32) - 8 for number in range(20)]
    kept, manifest = tmp_path / "kept.npz", tmp_path / "cuts.jsonl"
    write_manifest(manifest, stored_clips(tmp_path / "one", features, NumpyFilesWriter))
    keep_sample(kept, sample_inputs(dataset_of(manifest, "stored")))
    lossy = stored_clips(tmp_path / "two", features, LilcomChunkyWriter)
    check_sample(kept, sample_inputs(dataset_of(write_manifest(manifest, lossy), "stored")))
    other = stored_clips(tmp_path / "three", [values + 0.12 for values in features], LilcomChunkyWriter)
    with pytest.raises(ValueError, match="16 of 16 compared clips"):
        check_sample(kept, sample_inputs(dataset_of(write_manifest(manifest, other), "stored")))


def test_a_clip_that_cannot_be_read_is_not_compared(tmp_path, caplog):
    manifest, kept = noise_clips(tmp_path, 3), tmp_path / "kept.npz"
    whole = sample_inputs(dataset_of(manifest))
    keep_sample(kept, whole)
    (tmp_path / "1.wav").unlink()
    levels = sample_inputs(dataset_of(manifest))
    assert np.isnan(levels[1]).all() and np.array_equal(levels[[0, 2]], whole[[0, 2]])
    check_sample(kept, levels)
    assert "kept.npz: 1 of 3 clips that are compared cannot be read now" in caplog.text
    caplog.clear()
    keep_sample(kept, levels)
    check_sample(kept, whole)
    check_sample(kept, levels)
    assert not caplog.text
    check_sample(tmp_path / "nothing.npz", levels)


@pytest.mark.parametrize("other", [np.zeros((1, 8), np.float32), np.zeros((3, 8)), np.zeros((3, 8), "U1")])
def test_levels_of_another_kind_are_not_compared(tmp_path, other):
    keep_sample(tmp_path / "kept.npz", other)
    with pytest.raises(ValueError, match=r"kept.npz has .* of shape \(., 8\), expected \(3, 8\)"):
        check_sample(tmp_path / "kept.npz", np.zeros((3, 8), np.float32))


def test_levels_of_silence_noise_and_the_shortest_clips():
    assert np.abs(levels_of(np.zeros(RATE, np.float32)) - np.log(1e-8)).max() < 1e-6
    hiss = 1e-5 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    assert np.abs(levels_of(hiss) - levels_of(np.zeros(RATE, np.float32))).max() < TOLERANCE
    tone = np.sin(2 * np.pi * 2500 / RATE * np.arange(RATE)).astype(np.float32)
    assert levels_of(tone).argmax() == 2
    assert levels_of(tone)[2] - levels_of(tone / 2)[2] == pytest.approx(2 * np.log(2), abs=1e-3)
    for values in (tone[:1], np.zeros((1, 80), np.float32), np.zeros((1, 3), np.float32)):
        assert np.isfinite(levels_of(values)).all() and levels_of(values).shape == (NUM_BANDS,)


def test_every_frequency_is_in_a_band():
    np.testing.assert_array_equal(np.concatenate(bands_of(np.arange(257.0))), np.arange(257))


def test_the_sample_is_spread_over_all_clips():
    assert sampled_positions(3) == [0, 1, 2]
    many = sampled_positions(2_000_000)
    assert len(many) == 16 and many[0] == 0 and many[-1] == 1_999_999
    assert np.ptp(np.diff(many)) <= 1


def test_of_a_long_clip_only_the_beginning_is_read(tmp_path):
    path = tmp_path / "long.wav"
    samples = 0.1 * np.random.default_rng(0).standard_normal(12 * RATE)
    manifest = write_manifest(tmp_path / "cuts.jsonl", [record("long", 12.0, path=str(path))])
    levels = []
    for end in (1.0, 0.1):
        samples[10 * RATE :] *= end
        soundfile.write(path, samples, RATE)
        levels.append(sample_inputs(dataset_of(manifest)))
    assert np.array_equal(*levels) and np.isfinite(levels[0]).all()
