"""Score files: what is saved comes back, what is damaged is named."""

from __future__ import annotations

import numpy as np
import pytest

from audiotag.errors import DataError
from audiotag.evaluation.scores import Scores


def test_what_is_saved_comes_back(tmp_path, make_scores):
    scores = make_scores(20, 4)
    scores.save(tmp_path / "scores.npz")
    loaded = Scores.load(tmp_path / "scores.npz")
    assert loaded.ids == scores.ids
    assert all(type(clip_id) is str for clip_id in loaded.ids)
    assert loaded.logits.dtype == np.float32
    assert loaded.labels.dtype == np.uint8
    np.testing.assert_array_equal(loaded.logits, scores.logits)
    np.testing.assert_array_equal(loaded.labels, scores.labels)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.npz"]


@pytest.mark.parametrize("clip_id", ["-abc_DEF-12", "__________x", "clip with space", "录音 1", "a/b;c,d"])
def test_ids_of_any_kind(tmp_path, clip_id):
    Scores([clip_id, "other"], np.zeros((2, 1)), np.ones((2, 1))).save(tmp_path / "scores.npz")
    assert Scores.load(tmp_path / "scores.npz").ids == [clip_id, "other"]


def test_soft_labels_are_kept_as_they_are(tmp_path):
    Scores(["a"], np.zeros((1, 3)), np.array([[0.25, 1.0, 0.0]])).save(tmp_path / "s.npz")
    labels = Scores.load(tmp_path / "s.npz").labels
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, [[0.25, 1.0, 0.0]])


def test_no_clips_can_be_stored(tmp_path):
    Scores([], np.zeros((0, 5)), np.zeros((0, 5))).save(tmp_path / "s.npz")
    assert Scores.load(tmp_path / "s.npz").logits.shape == (0, 5)


def test_nothing_is_pickled(tmp_path, make_scores):
    make_scores(3, 2).save(tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz", allow_pickle=False) as archive:
        assert sorted(archive) == ["ids", "labels", "logits"]
        assert archive["ids"].dtype.kind == "U"


class Unreadable:
    """An array whose memory cannot be read, as one mapped from a broken disk."""

    def __array__(self, dtype=None, copy=None):
        raise OSError(5, "Input/output error")


def test_a_save_that_fails_half_way_keeps_the_old_file(tmp_path, make_scores):
    path = tmp_path / "s.npz"
    make_scores(3, 2).save(path)
    before = path.read_bytes()
    broken = make_scores(3, 2, seed=1)
    broken.labels = Unreadable()
    with pytest.raises(OSError, match="Input/output error"):
        broken.save(path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["s.npz"]


@pytest.mark.parametrize(
    ("ids", "logits", "labels", "message"),
    [
        (["a", "b"], (2, 3), (2, 4), r"same shape.*\(2, 3\) and \(2, 4\)"),
        (["a", "b"], (2,), (2,), "same shape"),
        (["a"], (2, 3), (2, 3), "1 ids for 2 rows"),
        (["a", "b", "a"], (3, 1), (3, 1), "clip 'a' occurs more than once"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, ids, logits, labels, message):
    with pytest.raises(DataError, match=message):
        Scores(ids, np.zeros(logits), np.zeros(labels))
    path = tmp_path / "made_elsewhere.npz"
    np.savez(path, ids=np.array(ids), logits=np.zeros(logits), labels=np.zeros(labels))
    with pytest.raises(DataError, match=message) as error:
        Scores.load(path)
    assert str(path) in str(error.value)


def test_a_missing_file_or_array_is_named(tmp_path):
    with pytest.raises(DataError, match=r"not found: .*none\.npz; stage 6"):
        Scores.load(tmp_path / "none.npz")
    np.savez(tmp_path / "part.npz", ids=np.array(["a"]), logits=np.zeros((1, 2)))
    with pytest.raises(DataError, match=r"part\.npz: .*it has no array 'labels', only ids, logits"):
        Scores.load(tmp_path / "part.npz")


def test_damaged_files_are_named_wherever_the_damage_is(tmp_path, make_scores):
    path = tmp_path / "scores.npz"
    make_scores(50, 4).save(path)
    whole = path.read_bytes()
    cut = [whole[:length] for length in (0, 1, 10, len(whole) // 2, len(whole) - 1)]
    flipped = [bytearray(whole) for _ in range(3)]
    for damaged, at in zip(flipped, (0, 300, len(whole) // 2), strict=True):
        damaged[at] ^= 0xFF
    for damaged in [*cut, *flipped, b"not a score file\n" * 20]:
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"scores\.npz: not a score file, or damaged"):
            Scores.load(path)


def test_a_damaged_file_that_was_compressed_elsewhere(tmp_path):
    path = tmp_path / "scores.npz"
    np.savez_compressed(path, ids=np.array(["a"]), logits=np.zeros((1, 9)), labels=np.zeros((1, 9)))
    damaged = bytearray(path.read_bytes())
    start = damaged.index(b"logits.npy") + len("logits.npy") + 20  # behind the entry's extra field
    damaged[start : start + 20] = b"\xff" * 20
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"scores\.npz: not a score file, or damaged"):
        Scores.load(path)


def test_other_numpy_files_are_refused(tmp_path):
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="not a score file"):
        Scores.load(tmp_path / "one.npz")
    np.savez(tmp_path / "objects.npz", ids=np.array([{}]), logits=np.zeros((1, 1)), labels=np.zeros((1, 1)))
    with pytest.raises(DataError, match="not a score file"):
        Scores.load(tmp_path / "objects.npz")
    np.savez(tmp_path / "text.npz", ids=np.array(["a"]), logits=np.array([["x"]]), labels=np.zeros((1, 1)))
    with pytest.raises(DataError, match="not a score file"):
        Scores.load(tmp_path / "text.npz")
