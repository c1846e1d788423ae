"""`data.length_multiple_s`: batches of few lengths, whatever augmentation does, with true lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batches import assert_same_entries, load_epoch
from manifests import noise_clips

from audiotag.augment.augmenter import build_augmenter
from audiotag.config import Config
from audiotag.corpora.features import extract_features
from audiotag.data.index import IndexedManifest
from audiotag.frontend import Frontend
from audiotag.training.loaders import padded_durations, read_durations

CPU = torch.device("cpu")
MULTIPLE_S = 0.05
PER_SECOND = {"on_the_fly": 16000, "stored": 100}
CUT = {"random_length": {"probability": 1.0, "duration_s": (0.1, 0.2)}}


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """Clips of 0.2 to 0.32 s by how they are stored."""
    folder = tmp_path_factory.mktemp("clips")
    plain = IndexedManifest(noise_clips(folder, 25))
    stored = folder / "fbank" / "cuts_train.jsonl"
    stored.parent.mkdir()
    extract_features(plain, stored, preset="icefall80")
    return {"on_the_fly": plain, "stored": IndexedManifest(stored)}


def load(manifest, storage, **options):
    return load_epoch(manifest, storage=storage, partner_probability=0.7, **options)


@pytest.mark.parametrize("storage", PER_SECOND)
@pytest.mark.parametrize("crop_s", [None, 0.23])
def test_the_loader_pads_to_a_multiple_and_changes_nothing_else(manifests, storage, crop_s):
    multiple = round(MULTIPLE_S * PER_SECOND[storage])
    plain = load(manifests[storage], storage, crop_s=crop_s)
    padded = load(manifests[storage], storage, crop_s=crop_s, length_multiple_s=MULTIPLE_S)
    for before, after in zip(plain, padded, strict=True):
        for one, other in ((before, after), (before["partner"], after["partner"])):
            size, longer = one["inputs"].shape[1], other["inputs"].shape[1]
            if len(one["inputs"]):
                assert longer % multiple == 0 and size <= longer < size + multiple
            assert not other["inputs"][:, size:].any()
            other["inputs"] = other["inputs"][:, :size]
        assert_same_entries(before, after)
    assert any(batch["inputs"].shape[1] % multiple for batch in plain)


@pytest.mark.parametrize("storage", PER_SECOND)
@pytest.mark.parametrize("preset", ["icefall80", "beats128"])
@pytest.mark.parametrize(
    "augment",
    [
        {},
        CUT,
        {"mixup": {"on": "features", "probability": 1.0, "length": "shorter"}, **CUT},
        {"repeat": {"duration_s": 0.31}},
    ],
    ids=["plain", "cut", "mixed", "repeated"],
)
def test_the_model_meets_multiples_only(manifests, storage, preset, augment):
    if storage == "stored" and preset != "icefall80":
        pytest.skip("stored for another preset")
    sections = Config.model_validate(
        {"features": {"preset": preset, "storage": storage}, "augment": augment}
    ).model_dump(mode="json")
    augmenter = build_augmenter(sections["augment"]) or build_augmenter({"feature_noise": {"scale": 1e-9}})
    rounding, plain = Frontend(preset), Frontend(preset)
    rounding.pad_to_multiple(MULTIPLE_S)
    seen = set()
    for batch in load(manifests[storage], storage, length_multiple_s=MULTIPLE_S):
        key = (1, 1, batch["batch_name"])
        features, lengths, targets = augmenter(batch, rounding, CPU, key)
        expected, true_lengths, true_targets = augmenter(batch, plain, CPU, key)
        assert features.shape[1] % 5 == 0
        assert features.shape[1] - int(lengths.max()) < 5 + (preset == "beats128") * 5
        assert torch.equal(lengths, true_lengths)
        assert torch.equal(targets, true_targets)
        if augment.get("mixup") is None and augment:
            for row, length in enumerate(lengths.tolist()):
                torch.testing.assert_close(features[row, :length], expected[row, :length])
        seen.add(features.shape[1])
    assert len(seen) <= 5


def test_a_fixed_length_stays():
    frontend = Frontend("ast128", target_frames=64)
    frontend.pad_to_multiple(0.5)
    assert frontend(torch.zeros(1, 16000), torch.tensor([16000]))[0].shape[1] == 64


def test_batches_are_filled_by_padded_durations(manifests):
    clips = manifests["on_the_fly"]
    config = Config.model_validate(
        {"data": {"length_multiple_s": 0.1}, "augment": {"crop": {"duration_s": 0.25}}}
    )
    durations = padded_durations(config, clips)
    assert durations.dtype == np.float32
    assert set(durations.round(4).tolist()) == {
        np.float32(0.2).item(),
        np.float32(0.3).item(),
    } or np.allclose(np.unique(durations), [0.2, 0.3])
    assert read_durations(config, clips).max() == np.float32(0.25)
    assert (durations >= read_durations(config, clips) - 1e-5).all()
    whole = config.model_copy(update={"data": config.data.model_copy(update={"length_multiple_s": None})})
    assert np.array_equal(padded_durations(whole, clips), read_durations(whole, clips))
