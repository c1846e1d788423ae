"""Pairs of which it is not known whether the clip has the class are in no metric, score file or picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from audiotag.errors import DataError
from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.plots import known_curve
from audiotag.evaluation.scores import Scores


@st.composite
def partly_labelled(draw):
    """Scores and labels (N,C) of which some are NaN; ties among the scores."""
    num_clips, num_classes = draw(st.integers(2, 30)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = np.round(rng.standard_normal((num_clips, num_classes)), draw(st.integers(0, 2)))
    labels = (rng.random(scores.shape) < 0.4).astype(np.float32)
    labels[rng.random(scores.shape) < draw(st.sampled_from([0.1, 0.5, 0.9]))] = np.nan
    return scores.astype(np.float32), labels


@settings(max_examples=150, deadline=None)
@given(partly_labelled())
def test_every_class_is_measured_on_the_clips_that_are_known(case):
    scores, labels = case
    metrics = compute_metrics(scores, labels)
    for index in range(scores.shape[1]):
        known = ~np.isnan(labels[:, index])
        truth, own = labels[known, index], scores[known, index]
        if not truth.any():
            assert np.isnan(metrics.ap[index])
            continue
        assert metrics.ap[index] == pytest.approx(sk.average_precision_score(truth, own), abs=1e-9)
        assert metrics.f1[index] == pytest.approx(sk.f1_score(truth, own > 0, zero_division=0), abs=1e-9)
        alone = compute_metrics(own[:, None], truth[:, None])
        assert metrics.ece[index] == pytest.approx(alone.summary["ece_micro"], abs=1e-9)
        assert metrics.best_f1[index] == pytest.approx(alone.best_f1[0], abs=1e-9)
        assert metrics.thresholds[index] == alone.thresholds[0]
        if len(set(truth)) == 2:
            assert metrics.auc[index] == pytest.approx(sk.roc_auc_score(truth, own), abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(partly_labelled())
def test_micro_metrics_are_those_of_the_known_pairs(case):
    scores, labels = case
    summary = compute_metrics(scores, labels).summary
    known = ~np.isnan(labels)
    assert summary["num_unknown_pairs"] == np.sum(~known)
    if not known.any():
        assert summary["loss"] is summary["mAP_micro"] is summary["accuracy"] is None
        return
    expected = compute_metrics(scores[known][:, None], labels[known][:, None]).summary
    for name in ("mAP_micro", "mAUC_micro", "f1_micro", "precision_micro", "recall_micro", "f1_micro_best",
                 "ece_micro", "loss", "distil_roc_auc"):  # fmt: skip
        assert summary[name] == pytest.approx(expected[name], abs=1e-9), name


@settings(max_examples=100, deadline=None)
@given(partly_labelled())
def test_metrics_of_clips_are_those_of_their_known_classes(case):
    scores, labels = case
    summary = compute_metrics(scores, labels).summary
    exact, ranks, hits = [], [], []
    for row, truth in zip(scores, labels, strict=True):
        own, truth = row[~np.isnan(truth)], truth[~np.isnan(truth)]
        if not len(truth):
            continue
        exact.append(np.array_equal(own > 0, truth > 0))
        if truth.any():
            hits.append(truth[own.argmax()] > 0)
            ranks += [truth[own >= score].sum() / np.sum(own >= score) for score in own[truth > 0]]
    expected = {"exact_match": exact, "lwlrap": ranks, "top1_in_labels": hits}
    for name, values in expected.items():
        assert summary[name] == (pytest.approx(np.mean(values), abs=1e-9) if values else None), name


def test_a_known_label_that_is_soft_is_still_refused():
    labels = np.array([[np.nan, 1.0], [0.5, 0.0]])
    with pytest.raises(DataError, match="labels of 1 of 2 clips are not 0 or 1: row 1"):
        compute_metrics(np.zeros((2, 2)), labels)


def test_score_files_keep_what_is_unknown_in_a_byte(tmp_path):
    labels = np.array([[1.0, np.nan, 0.0], [np.nan, 0.0, 1.0]])
    Scores(["a", "b"], np.zeros((2, 3)), labels).save(tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as archive:
        assert archive["labels"].dtype == np.uint8
        assert archive["labels"].tolist() == [[1, 255, 0], [255, 0, 1]]
    loaded = Scores.load(tmp_path / "s.npz").labels
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, labels)


def test_score_files_keep_soft_labels_beside_unknown_ones(tmp_path):
    labels = np.array([[0.25, np.nan, 0.0]])
    Scores(["a"], np.zeros((1, 3)), labels).save(tmp_path / "s.npz")
    np.testing.assert_array_equal(Scores.load(tmp_path / "s.npz").labels, labels.astype(np.float32))


def test_the_curve_of_a_picture_leaves_out_what_is_unknown():
    recall, precision = known_curve(np.array([3.0, 2.0, 1.0]), np.array([np.nan, 1.0, 0.0]))
    assert (recall.tolist(), precision.tolist()) == ([1.0], [1.0])
