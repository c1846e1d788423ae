"""Damaged .npz and .npy files: one kind of error, whatever NumPy and zipfile raise."""

from __future__ import annotations

import numpy as np
import pytest

from audiotag.arrayfiles import read_array, read_arrays
from audiotag.corpora.manifests import write_sounds
from audiotag.data.splits import read_sounds
from audiotag.evaluation.scores import Scores
from tests.sweep import damage
from tests.sweep.anydamage import sweep
from tests.sweep.reading import Refusal, read

SOUNDS = np.random.default_rng(0).integers(0, 1 << 63, 60, dtype=np.uint64)


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_lists_of_audio(tmp_path, suffix):
    """Those of earlier versions, .npy, have no checksum: what can be read of them is believed."""
    path = tmp_path / "manifests" / f"sounds_train.{suffix}"
    write_sounds(path, [])
    with path.open("wb") as file:
        np.savez(file, sounds=SOUNDS) if suffix == "npz" else np.save(file, SOUNDS)

    def same(found: np.ndarray) -> bool:
        return np.array_equal(found, SOUNDS)

    assert sweep(path, lambda: read_sounds(tmp_path, "train"), same, believed=suffix == "npy") > 150


def test_every_bit_of_an_archive_s_records(tmp_path):
    """The part of a score file behind its arrays, where zipfile looks for features that it may lack."""
    path = tmp_path / "scores.npz"
    Scores(["a", "b"], np.ones((2, 3)), np.ones((2, 3))).save(path)
    good, refused = path.read_bytes(), 0
    for place in range(good.index(b"PK\x01\x02"), len(good)):
        for bit in range(8):
            path.write_bytes(damage.with_bit(place, bit)(good))
            result = read(lambda: Scores.load(path), path)
            if isinstance(result, Refusal):
                refused += 1
            else:
                assert result.ids == ["a", "b"] and result.logits.all() and result.labels.all()
    assert refused > 500


def test_one_array_is_not_taken_for_several_nor_several_for_one(tmp_path):
    np.save(tmp_path / "one.npz", SOUNDS)
    (tmp_path / "one.npz.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match="it holds one array"):
        read_arrays(tmp_path / "one.npz", "sounds")
    np.savez(tmp_path / "several.npz", a=SOUNDS)
    with pytest.raises(ValueError, match="several arrays"):
        read_array(tmp_path / "several.npz")
    with pytest.raises(ValueError, match="no array 'b', only a"):
        read_arrays(tmp_path / "several.npz", "b")
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.npz", "a")
