"""Damaged sampling weights of stage 4: the weights of the clips by their ids, or an error."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings

from audiotag.corpora.stats import load_sampling_weights
from audiotag.data.index import IndexedManifest
from tests.sweep import damage
from tests.sweep.datadir import IDS, NAME, WEIGHTS, Damaged, make_data_dir
from tests.sweep.reading import Refusal


@pytest.fixture(scope="module")
def data_dir(module_folder):
    return make_data_dir(module_folder)


@pytest.fixture(scope="module")
def manifest(data_dir):
    return IndexedManifest(data_dir / "manifests" / "cuts_train.jsonl")


@pytest.fixture
def weights_with(data_dir, manifest):
    """A function from arrays of the file of weights to what is read of them."""
    path = data_dir / "stats" / NAME / "weights_train.npz"
    made = Damaged(path, lambda: load_sampling_weights(data_dir, NAME, manifest))

    def arrays(**values):
        file = io.BytesIO()
        np.savez(file, **values)
        return made.with_content(file.getvalue())

    yield arrays
    made.restore()


def test_any_bit_of_the_weights_flipped(data_dir, manifest):
    """The file has checksums: the weights are the good ones, or it is an error."""
    path = data_dir / "stats" / NAME / "weights_train.npz"
    made = Damaged(path, lambda: load_sampling_weights(data_dir, NAME, manifest).tolist())
    failures = []
    try:
        for place in range(len(made.content)):
            try:
                found = made.with_content(damage.with_bit(place, place % 8)(made.content))
            except AssertionError as error:
                failures.append(f"bit {place % 8} of byte {place}: {error}")
                continue
            if not isinstance(found, Refusal) and found != made.good:
                failures.append(f"bit {place % 8} of byte {place}: {found}")
    finally:
        made.restore()
    assert not failures, f"{len(failures)}:\n" + "\n".join(failures[:10])


IDS_BYTES = np.array([clip_id.encode() for clip_id in IDS])
BAD_WEIGHTS = {
    "no arrays": {},
    "no ids": {"weights": WEIGHTS},
    "no weights": {"ids": IDS_BYTES},
    "no clips": {"ids": IDS_BYTES[:0], "weights": WEIGHTS[:0]},
    "fewer clips": {"ids": IDS_BYTES[:4], "weights": WEIGHTS[:4]},
    "other clips": {"ids": np.array([b"other-" + clip_id for clip_id in IDS_BYTES]), "weights": WEIGHTS},
    "fewer weights": {"ids": IDS_BYTES, "weights": WEIGHTS[:4]},
    "one weight": {"ids": IDS_BYTES, "weights": np.array(1.0)},
    "more weights": {"ids": IDS_BYTES, "weights": np.append(WEIGHTS, 1.0)},
    "a table of weights": {"ids": IDS_BYTES, "weights": WEIGHTS[:, None]},
    "a table of ids": {"ids": IDS_BYTES[:, None], "weights": WEIGHTS},
    "an id twice": {"ids": np.array([*IDS_BYTES, IDS_BYTES[0]]), "weights": np.append(WEIGHTS, 7.0)},
    "NaN": {"ids": IDS_BYTES, "weights": WEIGHTS * np.nan},
    "one NaN": {"ids": IDS_BYTES, "weights": np.where(WEIGHTS == 3.5, np.nan, WEIGHTS)},
    "infinite": {"ids": IDS_BYTES, "weights": WEIGHTS + np.inf},
    "negative": {"ids": IDS_BYTES, "weights": -WEIGHTS},
    "text": {"ids": IDS_BYTES, "weights": np.array(["x"] * 6)},
    "complex": {"ids": IDS_BYTES, "weights": WEIGHTS + 1j},
    "times": {"ids": IDS_BYTES, "weights": WEIGHTS.astype("M8[s]")},
    "numbers for ids": {"ids": np.arange(6), "weights": WEIGHTS},
    "objects": {"ids": np.array(IDS, dtype=object), "weights": WEIGHTS},
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_weights_that_cannot_be_used(weights_with, name):
    found = weights_with(**BAD_WEIGHTS[name])
    assert isinstance(found, Refusal), found


@pytest.mark.parametrize("kind", ["f4", "f8", "i8", ">f8"])
def test_weights_of_other_types_and_orders(weights_with, kind):
    values = np.array([5, 1, 9, 0, 3, 2]).astype(kind)
    order = np.array([3, 0, 5, 1, 4, 2])
    found = weights_with(ids=IDS_BYTES[order], weights=values[order])
    assert isinstance(found, Refusal) or found.tolist() == values.tolist()
    found = weights_with(ids=np.array(IDS)[order], weights=values[order])
    assert isinstance(found, Refusal) or found.tolist() == values.tolist()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(damage.any_changes(1000))
def test_random_damage(data_dir, manifest, changes):
    path = data_dir / "stats" / NAME / "weights_train.npz"
    made = Damaged(path, lambda: load_sampling_weights(data_dir, NAME, manifest).tolist())
    try:
        found = made.with_content(damage.changed(made.content, changes))
        assert isinstance(found, Refusal) or found == made.good
    finally:
        made.restore()
