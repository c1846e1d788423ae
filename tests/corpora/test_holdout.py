from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.corpora.holdout import stratified_holdout


def random_labels(num_clips, num_classes, rng):
    popularity = 1.0 / np.arange(1, num_classes + 1)
    popularity /= popularity.sum()
    return [
        rng.choice(
            num_classes, size=min(rng.integers(0, 4), num_classes), replace=False, p=popularity
        ).tolist()
        for _ in range(num_clips)
    ]


def counts(labels, chosen, num_classes):
    flat = [label for of_clip, take in zip(labels, chosen, strict=True) if take for label in set(of_clip)]
    return np.bincount(flat, minlength=num_classes)


def test_every_label_keeps_its_share():
    labels = random_labels(3000, 12, np.random.default_rng(1))
    held_out = stratified_holdout(labels, 0.1, seed=5)
    everything = counts(labels, np.ones(3000, bool), 12)
    chosen = counts(labels, held_out, 12)
    assert (np.abs(chosen - 0.1 * everything) <= 2 + 0.01 * everything).all()
    assert held_out.sum() == pytest.approx(300, abs=15)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(2, 60), st.integers(1, 8), st.floats(0.01, 0.9), st.integers(0, 2**31), st.integers(0, 2**31)
)
def test_no_label_loses_its_last_clip(num_clips, num_classes, share, seed, corpus_seed):
    labels = random_labels(num_clips, num_classes, np.random.default_rng(corpus_seed))
    held_out = stratified_holdout(labels, share, seed)
    np.testing.assert_array_equal(held_out, stratified_holdout(labels, share, seed))
    everything = counts(labels, np.ones(num_clips, bool), num_classes)
    kept = counts(labels, ~held_out, num_classes)
    assert (kept[everything > 0] > 0).all()
    without = np.array([not of_clip for of_clip in labels])
    assert held_out[without].sum() <= share * without.sum() + 1


def test_seed_and_share():
    labels = random_labels(200, 5, np.random.default_rng(0))
    assert (stratified_holdout(labels, 0.2, 1) != stratified_holdout(labels, 0.2, 2)).any()
    assert not stratified_holdout(labels, 0.0, 1).any()
    assert not stratified_holdout([[0]], 0.5, 1).any()
    assert stratified_holdout([[0]] * 3, 0.001, 1).sum() == 1
