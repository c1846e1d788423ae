"""Stored rows: blocks, their range, damage, space, and looking rows up."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from audiotag.data.loading import Unreadable
from audiotag.data.rowstore import RowStore
from audiotag.distillation.hearing import SCORES
from audiotag.distillation.storedtargets import StoredTargets, rows_of
from audiotag.errors import DataError, StorageError

IDS = np.array([f"clip{number}".encode() for number in range(7)])
LOGITS = np.arange(21, dtype=np.float32).reshape(7, 3) - 10.3
INPUTS = np.linspace(-9, 3, 4 * 8, dtype=np.float32).reshape(4, 8)


def store_in(folder, key="key") -> RowStore:
    return RowStore(folder, key, num_clips=7, width=3, block_clips=3, kind=SCORES)


def filled(folder) -> RowStore:
    store = store_in(folder)
    for block in store.missing_blocks():
        store.write_block(block, LOGITS[list(store.positions(block))])
    store.finish(IDS, {"teachers": []})
    return store


def test_blocks_become_one_file_that_is_mapped_into_memory(tmp_path):
    store = store_in(tmp_path)
    assert [list(store.positions(block)) for block in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]
    store.write_block(1, LOGITS[3:6])
    assert store.missing_blocks() == [0, 2] and not store.is_complete(INPUTS)
    store = filled(tmp_path)
    assert store.is_complete(INPUTS) and store.missing_blocks() == []
    store.drop_blocks()
    scores, ids = store.open()
    assert isinstance(scores, np.memmap) and scores.dtype == np.float16
    np.testing.assert_array_equal(scores, LOGITS.astype(np.float16))
    assert ids.tolist() == IDS.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.npy", "scores.npy", "store.json"]


def test_rows_of_float32_keep_all_their_digits(tmp_path):
    kind = replace(SCORES, name="embeddings", dtype="float32")
    store = RowStore(tmp_path, "key", 7, 3, block_clips=7, kind=kind)
    store.write_block(0, LOGITS / 3)
    store.finish(IDS, {})
    rows, _ = store.open()
    assert rows.dtype == np.float32 and (tmp_path / "embeddings.npy").is_file()
    np.testing.assert_array_equal(rows, LOGITS / 3)


def test_logits_beyond_the_range_of_float16_become_its_largest(tmp_path):
    store = RowStore(tmp_path, "key", 1, 4, 3, SCORES)
    store.write_block(0, np.array([[1e9, -np.inf, 3.0, np.nan]], np.float32))
    np.testing.assert_array_equal(store.read_block(0), [[65504.0, -65504.0, 3.0, np.nan]])


def test_damaged_files_are_named(tmp_path):
    store = filled(tmp_path)
    store.block_path(1).write_bytes(store.block_path(1).read_bytes()[:-4])
    with pytest.raises(DataError, match=r"blocks/1.npz is damaged .*: delete .*1.npz and run"):
        store.read_block(1)
    np.savez(store.block_path(1), rows=np.zeros((3, 2), np.float16))
    with pytest.raises(DataError, match=r"expected \(3, 3\) float16, found \(3, 2\)"):
        store.read_block(1)
    scores = tmp_path / "scores.npy"
    scores.write_bytes(scores.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"scores.npy is damaged"):
        store.open()
    np.save(scores, LOGITS)
    with pytest.raises(DataError, match=r"damaged \(it has float32 of shape \(7, 3\) and ids"):
        store.open()


def test_what_is_not_as_it_was_written_is_made_again(tmp_path, caplog):
    """Also what an earlier version made, whose files have no checksums."""
    for name in ("scores.npy", "ids.npy", "store.json"):
        store, path = filled(tmp_path), tmp_path / name
        assert store.is_complete(INPUTS)
        content = bytearray(path.read_bytes())
        content[-6] ^= 1
        path.write_bytes(content)
        assert not store.is_complete(INPUTS)
        path.unlink()
        assert not store.is_complete(INPUTS)
    store = filled(tmp_path)
    (tmp_path / "store.json").write_text(json.dumps({"version": 1, "key": "key", "teachers": []}))
    assert not store.is_complete(INPUTS)
    for message in ("scores.npy is missing", "ids.npy was changed", "its checksum is another", "version 1"):
        assert message in caplog.text
    store.prepare(INPUTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocks", "inputs.npz"]
    assert filled(tmp_path).is_complete(INPUTS)


def test_the_store_of_something_else_is_refused(tmp_path):
    filled(tmp_path)
    with pytest.raises(DataError, match="its key is not the folder's"):
        store_in(tmp_path, key="another").is_complete(INPUTS)


def test_a_damaged_block_is_made_again_and_the_others_are_kept(tmp_path, caplog):
    store = filled(tmp_path)
    path = store.block_path(1)
    content = bytearray(path.read_bytes())
    content[content.index(LOGITS[4].astype(np.float16).tobytes())] ^= 1
    path.write_bytes(content)
    store.prepare(INPUTS)
    assert store.missing_blocks() == [1] and f"{path} is damaged" in caplog.text


def but(*place: int, value: float) -> np.ndarray:
    """The inputs with one of them changed."""
    changed = INPUTS.copy()
    changed[place] = value
    return changed


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (INPUTS + np.float32(0.02), True),
        (but(1, value=np.nan), True),
        (but(2, 5, value=INPUTS[2, 5] - 0.12), False),
        (INPUTS[:, :4], False),
    ],
    ids=["rounded", "unreadable", "quieter", "fewer"],
)
def test_rows_of_clips_that_have_changed_are_made_again(tmp_path, caplog, now, same):
    store = store_in(tmp_path)
    store.prepare(INPUTS)
    assert filled(tmp_path).is_complete(INPUTS)
    assert store.is_complete(now) is same
    lost = "1 of 4 clips that are compared cannot be read now" in caplog.text
    assert lost is bool(np.isnan(now).any())
    assert ("the teachers' scores are made again" in caplog.text) is not same
    # What a run that was stopped has left.
    store.description_path.unlink()
    store.prepare(now)
    assert store.missing_blocks() == ([] if same else [0, 1, 2])
    assert ("its blocks are made again" in caplog.text) is not same
    # What was found first stays, so that small changes do not add up.
    kept = np.load(store.inputs_path)["levels"]
    np.testing.assert_array_equal(kept, INPUTS if same else now)
    store.write_block(0, LOGITS[:3])
    store.prepare(now)
    assert 0 not in store.missing_blocks()


def test_new_inputs_do_not_vouch_for_old_rows(tmp_path, monkeypatch):
    store = store_in(tmp_path)
    store.prepare(INPUTS)
    filled(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(StorageError):
        store.prepare(INPUTS + 1)
    assert not store.is_complete(INPUTS + 1)


def test_older_stores_have_nothing_to_compare_with(tmp_path):
    assert filled(tmp_path).is_complete(INPUTS + 1)


def test_a_disk_that_is_too_small_is_known_before_anything_is_computed(tmp_path, monkeypatch):
    store = store_in(tmp_path)
    (tmp_path / ".scores.npy.77.tmp").write_bytes(b"half")
    store.prepare(INPUTS)
    assert [path.name for path in tmp_path.iterdir()] == ["inputs.npz"]
    needed = (7 + 3 * 3) * 3 * 2
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=needed))
    store.prepare(INPUTS)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=needed - 1))
    with pytest.raises(StorageError, match="scores of 7 clips need"):
        store.prepare(INPUTS)


def test_rows_are_found_by_the_clips_ids():
    assert rows_of(IDS, IDS) is None
    wanted = IDS[[5, 0, 3]]
    assert rows_of(wanted, IDS[::-1]).tolist() == [1, 6, 3]
    with pytest.raises(DataError, match="lack 1 of 2 clips, such as zzz"):
        rows_of(np.array([b"clip1", b"zzz"]), IDS)
    with pytest.raises(DataError, match="several clips go by one id"):
        rows_of(IDS[[0, 1, 1]], IDS[[1, 0, 1]])


def test_targets_are_softened_rows(tmp_path):
    scores, _ = filled(tmp_path).open()
    targets = StoredTargets(scores, np.array([6, 0]), temperature=2.0, form="bce", exclusive=False)
    expected = torch.from_numpy(LOGITS[[0, 6]].astype(np.float16).astype(np.float32))
    torch.testing.assert_close(targets([1, 0]), (expected / 2).sigmoid())


def test_a_clip_without_scores_is_unreadable(tmp_path):
    store = RowStore(tmp_path, "key", 2, 3, 3, SCORES)
    store.write_block(0, np.array([[1.0] * 3, [np.nan] * 3], np.float32))
    store.finish(IDS[:2], {})
    targets = StoredTargets(store.open()[0], None, temperature=1.0, form="bce", exclusive=False)
    targets.check(0, "clip0")
    with pytest.raises(Unreadable, match="clip clip1: it could not be read when"):
        targets.check(1, "clip1")
