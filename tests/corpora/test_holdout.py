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


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(2, 80), st.integers(1, 6), st.floats(0.05, 0.6), st.integers(0, 2**31))
def test_groups_stay_together(num_clips, num_classes, share, seed):
    rng = np.random.default_rng(seed)
    labels = random_labels(num_clips, num_classes, rng)
    groups = rng.integers(0, max(1, num_clips // 2), size=num_clips) * 7 - 3
    held_out = stratified_holdout(labels, share, seed, groups=groups)
    for group in set(groups.tolist()):
        assert len(set(held_out[groups == group].tolist())) == 1
    everything = counts(labels, np.ones(num_clips, bool), num_classes)
    assert (counts(labels, ~held_out, num_classes)[everything > 0] > 0).all()


def test_groups_keep_the_share():
    rng = np.random.default_rng(3)
    labels = random_labels(6000, 8, rng)
    groups = rng.integers(0, 1500, size=6000)
    groups[:200] = 5000  # one long recording
    held_out = stratified_holdout(labels, 0.1, seed=5, groups=groups)
    everything = counts(labels, np.ones(6000, bool), 8)
    assert held_out.sum() == pytest.approx(600, abs=90)
    assert counts(labels, held_out, 8) / everything == pytest.approx(0.1, abs=0.05)


def test_groups_of_one_are_no_groups():
    labels = random_labels(500, 6, np.random.default_rng(2))
    alone = stratified_holdout(labels, 0.1, 4)
    np.testing.assert_array_equal(alone, stratified_holdout(labels, 0.1, 4, groups=np.arange(500)))
    assert not stratified_holdout(labels, 0.1, 4, groups=np.zeros(500)).any()


def test_clips_that_cannot_be_spared_are_made_up_for():
    """Of a hundred clips of a label, sixty have another label's only clip."""
    labels = [[0, 1 + clip] if clip < 60 else [0] for clip in range(100)]
    held_out = stratified_holdout(labels, 0.3, 0)
    assert held_out.sum() == 30 and not held_out[:60].any()
