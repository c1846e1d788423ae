"""What training batches depend on, and what they do not."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
import torch
from batches import assert_same, load, load_epoch, same, training_loader
from manifests import noise_clips

from audiotag.corpora.features import extract_features
from audiotag.data.index import IndexedManifest
from audiotag.data.noise import NoiseMixer


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return IndexedManifest(noise_clips(tmp_path_factory.mktemp("clips"), 26))


@pytest.fixture(scope="module")
def stored(plain, tmp_path_factory):
    result = tmp_path_factory.mktemp("fbank") / "cuts_train.jsonl"
    extract_features(plain, result, preset="icefall80")
    return IndexedManifest(result)


def choices(manifest):
    """All that is left to chance, at once."""
    noise = NoiseMixer(manifest, probability=0.7, snr_db=(0.0, 10.0))
    return {"crop_s": 0.22, "noise": noise, "partner_probability": 0.5}


@pytest.mark.parametrize("storage", ["stored", "on_the_fly"])
def test_workers_change_nothing(plain, stored, storage):
    manifest = stored if storage == "stored" else plain
    options = {"storage": storage, **choices(manifest)}
    alone = load_epoch(manifest, **options)
    assert_same(alone, load_epoch(manifest, **options, num_workers=1))
    assert_same(alone, load_epoch(manifest, **options, num_workers=3))
    for name in ("crop_s", "noise"):
        assert not all(map(same, alone, load_epoch(manifest, **{**options, name: None})))


def test_ranks_change_nothing(plain):
    """Two ranks have between them what one has alone: 26 clips in batches of 4 or less, an even number."""
    alone = load_epoch(plain, batch_size=4, **choices(plain))
    ranks = [load_epoch(plain, batch_size=4, world_size=2, rank=rank, **choices(plain)) for rank in (0, 1)]
    dealt = [batch for pair in zip(*ranks, strict=True) for batch in pair]
    whole_rounds = len(alone) // 2 * 2
    assert_same(alone[:whole_rounds], dealt[:whole_rounds])


def test_a_later_part_of_an_epoch_is_the_same_part(plain):
    """What a resumed run loads is what the uninterrupted one would have loaded."""
    whole = load_epoch(plain, **choices(plain))
    assert_same(whole[3:], load_epoch(plain, first=3, num_workers=2, **choices(plain)))


def test_epochs_and_seeds_differ_and_one_loader_makes_them_all(plain):
    loader = training_loader(plain, num_workers=2, **choices(plain))
    epochs = {epoch: list(loader(epoch)) for epoch in (1, 2)}
    assert_same(epochs[1], list(loader(1)))
    assert_same(epochs[2], load_epoch(plain, epoch=2, **choices(plain)))
    assert [batch["ids"] for batch in epochs[1]] != [batch["ids"] for batch in epochs[2]]


@pytest.mark.parametrize("change", [{"epoch": 2}, {"seed": 2}])
def test_the_same_clips_get_other_noise(plain, change):
    options = {
        "batches": [np.array([3, 3, 5]), np.array([3, 4])],
        "noise": NoiseMixer(plain, 1.0, (0.0, 10.0)),
    }
    first, other = load_epoch(plain, **options), load_epoch(plain, **options, **change)
    assert first[0]["ids"] == other[0]["ids"] and not same(first[0], other[0])
    # Nor is it the same for a clip that comes twice in a batch, or in another batch.
    rows = [first[0]["inputs"][0, :3440], first[0]["inputs"][1, :3440], first[1]["inputs"][0, :3440]]
    assert not any(torch.equal(rows[a], rows[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_the_name_of_a_batch_is_that_of_its_clips(plain):
    batches = [np.array([3, 9]), np.array([9, 3]), np.array([4])]
    names = [batch["batch_name"] for batch in load_epoch(plain, batches=batches)]
    assert names == [zlib.crc32(batch.astype("<i8").tobytes()) for batch in batches]
    assert len(set(names)) == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_global_random_state_is_left_alone(plain, num_workers):
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    load_epoch(plain, num_workers=num_workers, **choices(plain))
    assert torch.equal(before[0], torch.random.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()


def test_without_chance_a_training_batch_is_one_of_evaluation(plain):
    [batch] = load_epoch(plain, batch_size=26)
    order = np.array([int(clip.removeprefix("-clip_")) for clip in batch["ids"]])
    [expected] = load(plain, [order])
    assert batch["replaced"] == [] and batch["num_replaced"] == 0
    assert set(batch) - set(expected) == {"batch_name", "replaced", "num_replaced"}
    # Only scores need to know where in the manifest a clip is.
    assert expected.pop("positions").tolist() == order.tolist()
    assert_same([expected], [{name: batch[name] for name in expected}])


@pytest.mark.parametrize("storage", ["stored", "on_the_fly"])
def test_partners_come_from_the_whole_corpus(plain, stored, storage):
    manifest = stored if storage == "stored" else plain
    [whole] = load(manifest, [np.arange(26)], storage=storage)
    clip_of = {whole["inputs"][clip][: whole["lengths"][clip]].numpy().tobytes(): clip for clip in range(26)}
    counts, num_rows = np.zeros(26), 0
    # The longest clip is in every batch, so that no partner is cut.
    batches = [np.array([25, *range(first, first + 5)]) for first in range(0, 25, 5)]
    loader = training_loader(manifest, storage=storage, batches=batches, partner_probability=0.3)
    for batch in (batch for epoch in range(1, 41) for batch in loader(epoch)):
        partner = batch["partner"]
        rows, inputs, lengths, labels = (partner[key] for key in ("rows", "inputs", "lengths", "labels"))
        assert rows.dtype == lengths.dtype == torch.int64 and inputs.dtype == labels.dtype == torch.float32
        assert inputs.shape == (len(rows), max([1, *lengths]), *batch["inputs"].shape[2:]) or not len(rows)
        assert (rows.diff() > 0).all() and (rows < 6).all()
        num_rows += len(rows)
        for values, length, multi_hot in zip(inputs, lengths, labels, strict=True):
            clip = clip_of.get(values[:length].numpy().tobytes(), -1)
            assert clip >= 0 and torch.equal(multi_hot, whole["labels"][clip]) and not values[length:].any()
            counts[clip] += 1
    assert num_rows / (40 * 5 * 6) == pytest.approx(0.3, abs=0.04)
    assert counts.min() > 0 and counts.max() < 3 * counts.mean()


def test_partners_are_no_longer_than_the_batch(plain):
    """Of a longer one a stretch is read, so that a batch's limits hold for what is mixed into it."""
    loader = training_loader(plain, batches=[np.array([0, 2])], partner_probability=1.0)
    for epoch in range(1, 21):
        [batch] = loader(epoch)
        assert batch["partner"]["lengths"].tolist() <= [3360, 3360]
        assert batch["partner"]["inputs"].shape == (2, batch["partner"]["lengths"].max())


def test_no_partner_at_all_is_an_empty_entry(plain, stored):
    for manifest, storage, shape in ((plain, "on_the_fly", (0, 1)), (stored, "stored", (0, 1, 80))):
        partner = load_epoch(manifest, storage=storage, partner_probability=0.0)[0]["partner"]
        assert partner["inputs"].shape == shape
        assert partner["rows"].shape == partner["lengths"].shape == (0,) and partner["labels"].shape == (0, 5)
