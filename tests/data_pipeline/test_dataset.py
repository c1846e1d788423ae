from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import assert_same, load
from manifests import noise_clips, record, write_manifest

from audiotag.corpora.features import TICK_POWER, extract_features
from audiotag.data.batching import BatchPlan
from audiotag.data.index import IndexedManifest
from audiotag.data.loader import make_loader
from audiotag.data.loading import load_audio
from audiotag.errors import DataError
from audiotag.frontend import PRESETS, Frontend


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return IndexedManifest(noise_clips(tmp_path_factory.mktemp("clips"), 25))


@pytest.fixture(scope="module")
def stored(plain, tmp_path_factory):
    result = tmp_path_factory.mktemp("fbank") / "cuts_train.jsonl"
    extract_features(plain, result, preset="ast128")
    return IndexedManifest(result)


def plan(manifest):
    return BatchPlan(manifest.durations, seed=1, batch_size=4, training=False).batches(0)


def test_a_batch_has_what_the_contract_says(plain):
    batches = plan(plain)
    loader = make_loader(plain, batches, storage="on_the_fly", num_classes=5, num_workers=0)
    assert len(loader) == len(batches) == 7
    for batch, positions in zip(loader, batches, strict=True):
        assert set(batch) == {"inputs", "lengths", "labels", "ids", "positions"}
        assert batch["positions"].tolist() == list(positions)
        assert batch["inputs"].dtype == batch["labels"].dtype == torch.float32
        assert batch["lengths"].dtype == torch.int64
        assert batch["inputs"].shape == (len(positions), batch["lengths"].max())
        assert batch["ids"] == [plain.id(position) for position in positions]
        for row, position in enumerate(positions):
            samples = load_audio(plain.record(position))
            assert batch["lengths"][row] == len(samples)
            np.testing.assert_array_equal(batch["inputs"][row, : len(samples)], samples)
            assert not batch["inputs"][row, len(samples) :].any()
            expected = np.zeros(5)
            expected[plain.labels(position)] = 1
            np.testing.assert_array_equal(batch["labels"][row], expected)


@pytest.mark.parametrize("storage", ["stored", "on_the_fly"])
def test_workers_change_nothing(plain, stored, storage):
    manifest = stored if storage == "stored" else plain
    alone = load(manifest, plan(manifest), storage=storage)
    for num_workers in (1, 3):
        assert_same(alone, load(manifest, plan(manifest), storage=storage, num_workers=num_workers))


def test_a_loader_can_be_gone_through_again(plain):
    loader = make_loader(plain, plan(plain), storage="on_the_fly", num_classes=5, num_workers=1)
    assert_same(list(loader), list(loader))


@pytest.mark.parametrize("preset", PRESETS)
def test_stored_and_computed_features_agree(plain, tmp_path, preset):
    """The same batches in front of the encoder, within what lilcom rounds: half of 2**-5."""
    extract_features(plain, tmp_path / "cuts_train.jsonl", preset=preset)
    stored = IndexedManifest(tmp_path / "cuts_train.jsonl")
    frontend = Frontend(preset, target_frames=40, normalize=False)
    batches = plan(plain)
    for wave, raw in zip(load(plain, batches), load(stored, batches, storage="stored"), strict=True):
        assert wave["ids"] == raw["ids"] and torch.equal(wave["labels"], raw["labels"])
        computed, frames = frontend.finish(*frontend.extract(wave["inputs"], wave["lengths"]))
        read, stored_frames = frontend.finish(raw["inputs"], raw["lengths"])
        assert torch.equal(frames, stored_frames)
        assert (computed - read).abs().max() <= 2.0**TICK_POWER / 2 + 1e-4


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_clip_that_is_gone_is_named_in_one_line(tmp_path, num_workers):
    manifest = IndexedManifest(noise_clips(tmp_path, 6))
    (tmp_path / "4.wav").unlink()
    with pytest.raises(DataError) as error:
        load(manifest, [np.array([0, 1]), np.array([4, 5])], num_workers=num_workers)
    assert str(error.value).startswith(f"clip -clip_4: cannot read {tmp_path}/4.wav")
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damaged_archives_are_named(plain, tmp_path, num_workers):
    extract_features(plain, tmp_path / "cuts_train.jsonl", preset="ast128")
    stored = IndexedManifest(tmp_path / "cuts_train.jsonl")
    archive = Path(stored.record(24)["features"]["storage_path"])
    content = bytearray(archive.read_bytes())
    start = int(stored.record(24)["features"]["storage_key"].split(",")[0])
    archive.write_bytes(content[: start + 40])
    with pytest.raises(DataError, match=f"clip -clip_24: cannot read {archive}"):
        load(stored, [np.array([0, 24])], storage="stored", num_workers=num_workers)
    content[start : start + 200] = bytes(200)
    archive.write_bytes(content)
    with pytest.raises(DataError, match=f"clip -clip_24: cannot read {archive}"):
        load(stored, [np.array([24])], storage="stored", num_workers=num_workers)


def test_audio_is_no_stored_feature(plain):
    with pytest.raises(DataError, match="has no stored features: run stage 2"):
        load(plain, plan(plain), storage="stored")


def test_labels_beyond_the_table_are_refused(tmp_path):
    path = write_manifest(tmp_path / "cuts.jsonl", [record("a"), record("b", labels="1;5;2"), record("c")])
    with pytest.raises(DataError, match=r"clip b of .* has class 5, but there are 5 labels"):
        load(IndexedManifest(path), [])


def test_manifests_of_other_toolkits(plain, tmp_path):
    """Cuts as icefall's recipe writes them: several supervisions fields, tags, no custom field at all."""
    lines = [plain.record(index) for index in range(3)]
    lines[0]["supervisions"][0].update(text="", language="English", gender=None)
    lines[1]["supervisions"] = []
    lines[2]["custom"] = {"dataloading_info": {"rank": 0}}
    path = tmp_path / "cuts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    [batch] = load(IndexedManifest(path), [np.arange(3)])
    assert batch["labels"][1].sum() == 0 and batch["inputs"].shape[0] == 3
