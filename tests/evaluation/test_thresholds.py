"""Thresholds of the best F1: what they give, how they are kept, and on which split they are used."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.errors import DataError
from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.results import read_evaluation, write_evaluation
from audiotag.evaluation.thresholds import read_thresholds
from audiotag.labels import Label, LabelTable


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]), st.integers(0, 3))
def test_thresholds_give_the_best_f1_on_their_own_clips(seed, dtype, digits):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.standard_normal((25, 4)), digits).astype(dtype)
    labels = (rng.random((25, 4)) < 0.3).astype(np.float32)
    labels[rng.random((25, 4)) < 0.1] = np.nan
    metrics = compute_metrics(scores, labels)
    again = compute_metrics(scores, labels, tuned=metrics.tuned_thresholds("valid")).summary
    assert again["f1_micro_tuned"] == metrics.summary["f1_micro_best"]
    assert again["f1_macro_tuned"] == pytest.approx(metrics.summary["f1_macro_best"], abs=1e-12)
    assert metrics.summary["f1_micro_best"] >= metrics.summary["f1_micro"]


def test_neighbouring_scores_are_told_apart():
    high = np.float32(1.0)
    scores = np.array([[high], [np.nextafter(high, np.float32(0))]])
    metrics = compute_metrics(scores, np.array([[1], [0]]))
    assert (scores[:, 0] >= metrics.thresholds[0]).tolist() == [True, False]


def test_the_threshold_lies_between_two_scores():
    metrics = compute_metrics(np.array([[3.0], [1.0], [-1.0]]), np.array([[1], [0], [0]]))
    assert metrics.thresholds.tolist() == [2.0]
    # Everything is predicted: there is no lower score to lie above.
    assert compute_metrics(np.array([[3.0], [1.0]]), np.ones((2, 1))).thresholds.tolist() == [1.0]


def test_a_class_without_positives_takes_the_shared_threshold():
    metrics = compute_metrics(np.array([[3.0, 0.0], [1.0, 0.0]]), np.array([[1, 0], [0, 0]]))
    assert np.isnan(metrics.thresholds[1])
    assert metrics.tuned_thresholds("valid").by_class.tolist() == [2.0, 2.0]
    nothing = compute_metrics(np.ones((2, 2)), np.zeros((2, 2))).tuned_thresholds("valid")
    assert (nothing.shared, nothing.by_class.tolist()) == (0.0, [0.0, 0.0])


def test_the_file_is_read_for_any_order_of_classes(tmp_path, make_scores, make_labels):
    scores, labels = make_scores(40, 4), make_labels(4)
    metrics = write_evaluation(tmp_path / "eval_valid_a", scores, labels, info={"split": "valid"})
    path = tmp_path / "eval_valid_a" / "thresholds.json"
    content = json.loads(path.read_text())
    assert (content["tuned_on"], content["num_clips"]) == ("valid", 40)
    entry = content["classes"][1]
    assert entry["positives"] == metrics.positives[1]
    assert entry["logit"] == metrics.thresholds[1]
    assert entry["probability"] == pytest.approx(1 / (1 + np.exp(-entry["logit"])))
    turned = LabelTable([Label(3 - label.index, label.mid, label.name) for label in reversed(list(labels))])
    read = read_thresholds(path, turned)
    np.testing.assert_array_equal(read.by_class[::-1], metrics.tuned_thresholds("valid").by_class)
    assert read.shared == metrics.shared_threshold
    with pytest.raises(DataError, match=r"no threshold for 1 of 5 classes, among them /m/004"):
        read_thresholds(path, make_labels(5))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"classes": [], "shared": {"logit": "high"}, "tuned_on": "valid"}',
             '{"classes": [], "shared": {"logit": NaN}, "tuned_on": "valid"}', '{"classes": 3}']
)  # fmt: skip
def test_damaged_thresholds_are_named(tmp_path, text, make_labels):
    (tmp_path / "thresholds.json").write_text(text)
    with pytest.raises(DataError, match=r"thresholds\.json: not thresholds, or damaged"):
        read_thresholds(tmp_path / "thresholds.json", make_labels(0))


def evaluate(folder, scores, labels, split, **info):
    """Write an evaluation of a split with the weights `a`."""
    known = {"split": split, "checkpoints": ["epoch-1.pt"], "sha256": {"epoch-1.pt": "ab"}, **info}
    write_evaluation(folder / f"eval_{split}_a", scores, labels, info=known)
    return read_evaluation(folder / f"eval_{split}_a").metrics


def test_eval_uses_the_thresholds_of_valid(tmp_path, make_scores, make_labels):
    valid, scores, labels = make_scores(50, 4, seed=1), make_scores(60, 4, seed=2), make_labels(4)
    assert "f1_micro_tuned" not in evaluate(tmp_path, scores, labels, "eval")
    assert "f1_micro_tuned" not in evaluate(tmp_path, valid, labels, "valid")
    metrics = evaluate(tmp_path, scores, labels, "eval")
    tuned = compute_metrics(valid.logits, valid.labels).tuned_thresholds("valid")
    expected = compute_metrics(scores.logits, scores.labels, tuned=tuned).summary
    for name in ("f1_micro_tuned", "f1_macro_tuned"):
        assert metrics[name] == expected[name] < metrics[name.replace("tuned", "best")]


@pytest.mark.parametrize(
    "info", [{"sha256": {"epoch-1.pt": "cd"}}, {"checkpoints": ["epoch-2.pt"]},
             {"coverage": {"valid": {"same_as": "eval"}}}]
)  # fmt: skip
def test_thresholds_of_other_weights_or_the_same_clips_are_not_used(tmp_path, make_scores, make_labels, info):
    scores, labels = make_scores(50, 4), make_labels(4)
    evaluate(tmp_path, scores, labels, "valid")
    assert "f1_micro_tuned" not in evaluate(tmp_path, scores, labels, "eval", **info)


def test_a_valid_that_is_eval_is_named_so(tmp_path, make_scores, make_labels):
    same = {"coverage": {"valid": {"same_as": "eval"}}}
    evaluate(tmp_path, make_scores(50, 4), make_labels(4), "valid", **same)
    content = json.loads((tmp_path / "eval_valid_a" / "thresholds.json").read_text())
    assert content["tuned_on"] == "eval"


def test_damaged_thresholds_of_valid_are_said_and_left_out(tmp_path, make_scores, make_labels, caplog):
    scores, labels = make_scores(50, 4), make_labels(4)
    evaluate(tmp_path, scores, labels, "valid")
    (tmp_path / "eval_valid_a" / "thresholds.json").write_text("{")
    assert "f1_micro_tuned" not in evaluate(tmp_path, scores, labels, "eval")
    assert "no thresholds tuned on valid" in caplog.text
