"""Unreadable clips: replaced in training, whatever is wrong with them, and never in evaluation."""

from __future__ import annotations

import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from batches import assert_same, load, load_epoch, training_loader
from manifests import noise_clips, record, write_manifest

from audiotag.corpora.features import extract_features
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import Unreadable, load_audio
from audiotag.data.noise import NoiseMixer
from audiotag.errors import DataError

BAD = 7


@pytest.fixture
def plain(tmp_path):
    return IndexedManifest(noise_clips(tmp_path / "clips", 20))


@pytest.fixture
def stored(plain, tmp_path):
    result = tmp_path / "fbank" / "cuts_train.jsonl"
    extract_features(plain, result, preset="ast128")
    return IndexedManifest(result)


def sound_of(manifest, position) -> Path:
    return Path(manifest.record(position)["recording"]["sources"][0]["source"])


def delete(path: Path) -> None:
    path.unlink()


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_text("<html>404 Not Found</html>")


def change_rate(path: Path) -> None:
    soundfile.write(path, np.zeros(8000), 8000)


def turn_into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SOUND_DAMAGES = (delete, cut_off, empty, overwrite, change_rate, turn_into_folder)


def matrix_bounds(manifest, position) -> tuple[Path, int, int]:
    """The archive of a clip's features, and where they lie in it."""
    features = manifest.record(position)["features"]
    start, *sizes = map(int, features["storage_key"].split(","))
    return Path(features["storage_path"]), start, start + sum(sizes)


def zero_matrix(manifest, position) -> None:
    archive, start, end = matrix_bounds(manifest, position)
    content = bytearray(archive.read_bytes())
    content[start:end] = bytes(end - start)
    archive.write_bytes(content)


def break_header(manifest, position) -> None:
    archive, start, _ = matrix_bounds(manifest, position)
    content = bytearray(archive.read_bytes())
    content[start] ^= 0xFF
    archive.write_bytes(content)


def check_replaced(manifest, bad_ids, **options):
    """An epoch has all clips but the bad ones, others for these, the same for any number of workers."""
    epoch = load_epoch(manifest, max_unreadable=0.5, **options)
    ids = [clip for batch in epoch for clip in batch["ids"]]
    everything = [manifest.id(position) for position in range(len(manifest))]
    assert len(ids) == len(everything) and not set(ids) & set(bad_ids)
    assert set(ids) == set(everything) - set(bad_ids)
    replaced = [entry for batch in epoch for entry in batch["replaced"]]
    assert {clip for clip, _ in replaced} == set(bad_ids)
    [whole] = load(
        manifest,
        [np.array([everything.index(clip) for clip in ids])],
        storage=options.get("storage", "on_the_fly"),
    )
    labels = np.concatenate([batch["labels"] for batch in epoch])
    np.testing.assert_array_equal(labels, whole["labels"])
    for num_workers in (1, 3):
        assert_same(epoch, load_epoch(manifest, max_unreadable=0.5, num_workers=num_workers, **options))
    return replaced


@pytest.mark.parametrize("damage", SOUND_DAMAGES)
def test_sounds_that_cannot_be_read_are_replaced(plain, damage):
    path = sound_of(plain, BAD)
    damage(path)
    replaced = check_replaced(plain, ["-clip_7"])
    assert all(str(path) in reason and "\n" not in reason for _, reason in replaced)
    with pytest.raises(
        DataError, match=rf"clip -clip_7: cannot read {path}: .*restore it, or run the stages"
    ):
        load(plain, [np.arange(20)])


@pytest.mark.parametrize("damage", [zero_matrix, break_header])
def test_features_that_cannot_be_read_are_replaced(stored, damage):
    damage(stored, BAD)
    check_replaced(stored, ["-clip_7"], storage="stored")
    with pytest.raises(DataError, match="clip -clip_7: cannot read"):
        load(stored, [np.arange(20)], storage="stored")


def test_a_truncated_archive_loses_the_clips_behind_the_cut(stored):
    archive, start, _ = matrix_bounds(stored, 18)
    archive.write_bytes(archive.read_bytes()[: start + 50])
    replaced = check_replaced(stored, ["-clip_18", "-clip_19"], storage="stored")
    assert all("bytes are expected at" in reason for _, reason in replaced)


@pytest.mark.parametrize("more", [-1, 1])
def test_features_of_another_length_are_replaced(stored, tmp_path, more):
    """An archive that was made anew while an old manifest is in use."""
    lines = [stored.record(position) for position in range(20)]
    lines[BAD]["features"]["num_frames"] += more
    manifest = IndexedManifest(write_manifest(tmp_path / "other" / "cuts_train.jsonl", lines))
    [(_, reason)] = check_replaced(manifest, ["-clip_7"], storage="stored")
    assert f"holds features (22, 128) where the manifest says ({22 + more}, 128)" in reason


def test_a_replacement_that_cannot_be_read_goes_to_the_next(plain):
    """Most of the corpus is gone: whatever remains takes the place, in the end."""
    for position in range(16):
        delete(sound_of(plain, position))
    epoch = load_epoch(plain, max_unreadable=1.0)
    ids = [clip for batch in epoch for clip in batch["ids"]]
    assert len(ids) == 20 and set(ids) == {f"-clip_{number}" for number in range(16, 20)}
    assert_same(epoch, load_epoch(plain, max_unreadable=1.0, num_workers=2))


def test_replacements_differ_between_epochs_and_places(plain):
    delete(sound_of(plain, BAD))
    batches = [np.array([BAD]), np.array([BAD, BAD, 3])]
    loader = training_loader(plain, batches=batches, max_unreadable=1.0)
    taken = [tuple(batch["ids"]) for epoch in range(1, 9) for batch in loader(epoch)]
    assert len({ids[0] for ids in taken}) > 4
    assert any(ids[0] != ids[1] for ids in taken if len(ids) == 3)


def test_replacements_follow_the_weights(plain):
    weights = np.zeros(20)
    weights[[2, 5, BAD]] = 1.0
    delete(sound_of(plain, BAD))
    epoch = load_epoch(plain, weights=weights, max_unreadable=1.0)
    assert {clip for batch in epoch for clip in batch["ids"]} <= {"-clip_2", "-clip_5"}


@pytest.mark.parametrize("storage", ["stored", "on_the_fly"])
def test_a_replacement_is_no_longer_than_the_longest_clip_of_the_batch(plain, stored, storage):
    """Otherwise a batch would go beyond data.max_duration_s."""
    manifest = stored if storage == "stored" else plain
    if storage == "stored":
        zero_matrix(stored, 3)
    else:
        delete(sound_of(plain, 3))
    [whole] = load(manifest, [np.array([0, 1, 2])], storage=storage)
    # Clips 0 to 2 are not longer than clip 3 was planned to be; all others are, and are cut.
    longest = whole["lengths"][2] + (80 if storage == "on_the_fly" else 1)
    options = {"storage": storage, "batches": [np.array([0, 3]), np.array([3])], "max_unreadable": 1.0}
    loader = training_loader(manifest, **options)
    for epoch in range(1, 11):
        for batch in loader(epoch):
            assert batch["lengths"].max() <= longest
            assert (
                batch["ids"][-1] in ("-clip_0", "-clip_1", "-clip_2") or batch["lengths"][-1] >= longest - 1
            )


def test_too_many_stop_the_run(plain):
    """Places that others take are counted, not how many had to be tried for each."""
    for position in (3, 9, 15):
        delete(sound_of(plain, position))
    epoch = load_epoch(plain, max_unreadable=3 / 20)
    assert sum(batch["num_replaced"] for batch in epoch) == 3
    with pytest.raises(DataError) as error:
        load_epoch(plain, max_unreadable=2 / 20)
    message = str(error.value)
    assert message.startswith(
        "epoch 1: 3 unreadable clips had to be replaced so far, with 20 to load on this process: "
        "more than data.max_unreadable (0.1) allows (-clip_"
    )
    assert f"-clip_3: cannot read {sound_of(plain, 3)}: No such file or directory" in message
    assert message.endswith("or raise data.max_unreadable")


def test_of_a_few_clips_one_may_be_unreadable(plain):
    """One of 20 is more than one percent; but whoever allows some allows one."""
    delete(sound_of(plain, 3))
    assert len(load_epoch(plain, max_unreadable=0.01)) == 5
    with pytest.raises(DataError, match="1 unreadable clips had to be replaced so far"):
        load_epoch(plain, max_unreadable=0.0)
    delete(sound_of(plain, 4))
    with pytest.raises(DataError, match="2 unreadable clips had to be replaced so far"):
        load_epoch(plain, max_unreadable=0.01)


def test_each_is_named_once_and_every_epoch_is_summed_up(plain, caplog):
    delete(sound_of(plain, 3))
    delete(sound_of(plain, 4))
    loader = training_loader(plain, max_unreadable=0.2, num_workers=2)
    with caplog.at_level(logging.INFO):
        for epoch in (1, 2):
            batches = iter(loader(epoch))
            for _ in range(5):  # as the trainer does: it never asks for a sixth
                next(batches)
    lines = [entry.getMessage() for entry in caplog.records]
    named = [line for line in lines if "another clip takes its place" in line]
    assert sorted(line.split(":")[0] for line in named) == ["clip -clip_3", "clip -clip_4"]
    assert all(f"cannot read {sound_of(plain, 3).parent}" in line for line in named)
    sums = [line for line in lines if "clips were replaced, with 20 to load" in line]
    assert [line.split(":")[0] for line in sums] == ["epoch 1", "epoch 2"]


def test_a_whole_epoch_says_nothing(plain, caplog):
    load_epoch(plain)
    assert not caplog.records


def test_when_nothing_can_be_read_the_run_stops_at_once(plain, tmp_path):
    shutil.move(tmp_path / "clips", tmp_path / "gone")
    with pytest.raises(DataError, match=r"none of .* clips drawn in its place can be read either"):
        load_epoch(plain, max_unreadable=1.0)


def test_unreadable_noise_is_replaced_by_other_noise(plain, tmp_path):
    noise = IndexedManifest(noise_clips(tmp_path / "noise", 4))
    for position in (1, 2):
        delete(sound_of(noise, position))
    options = {"noise": NoiseMixer(noise, 1.0, (0.0, 10.0)), "max_unreadable": 0.0}
    epoch = load_epoch(plain, **options)
    assert {clip for batch in epoch for clip, _ in batch["replaced"]} == {"-clip_1", "-clip_2"}
    assert_same(epoch, load_epoch(plain, **options, num_workers=2))
    shutil.rmtree(tmp_path / "noise")
    with pytest.raises(
        DataError, match=f"cannot read {tmp_path}/noise/.*none of 20 clips drawn in its place"
    ):
        load_epoch(plain, **options)


def test_unreadable_partners_are_replaced_by_other_clips(plain):
    for position in (1, 2, 3):
        delete(sound_of(plain, position))
    options = {"batches": [np.arange(10, 20)], "partner_probability": 1.0, "max_unreadable": 0.0}
    loader = training_loader(plain, **options)
    noted = set()
    for epoch in range(1, 11):
        [batch] = loader(epoch)
        assert len(batch["partner"]["rows"]) == 10
        noted |= {clip for clip, _ in batch["replaced"]}
    assert noted == {"-clip_1", "-clip_2", "-clip_3"}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_is_no_fault_of_the_clip_stops_the_run_and_names_it(plain, tmp_path, num_workers):
    """A manifest with a hole is a mistake of whoever made it: no clip is silently replaced for that."""
    lines = [plain.record(position) for position in range(20)]
    del lines[BAD]["recording"]["sampling_rate"]
    manifest = IndexedManifest(write_manifest(tmp_path / "cuts.jsonl", lines))
    with pytest.raises(DataError, match="clip -clip_7: KeyError: 'sampling_rate'") as error:
        load_epoch(manifest, num_workers=num_workers, crop_s=0.2, max_unreadable=1.0)
    assert "Traceback" not in str(error.value)
    with pytest.raises(DataError, match=r"clip -clip_. has no stored features: run stage 2"):
        load_epoch(plain, storage="stored", num_workers=num_workers, max_unreadable=1.0)


def test_the_error_of_a_clip_survives_its_way_between_processes(tmp_path):
    with pytest.raises(Unreadable) as error:
        load_audio(record("gone", path=str(tmp_path / "gone.wav")))
    copy = pickle.loads(pickle.dumps(error.value))  # noqa: S301 (its own)
    assert str(copy) == str(error.value) and copy.clip_id == "gone" and copy.reason == error.value.reason
