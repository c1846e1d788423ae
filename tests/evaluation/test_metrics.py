"""The metrics against scikit-learn, against stored reference values and against cases done by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from audiotag.configfile import load_config
from audiotag.errors import ConfigError, DataError
from audiotag.evaluation.calibration import EDGES, bin_sums
from audiotag.evaluation.metricnames import METRIC_NAMES, TUNED_NAMES, check_metric_name, less_is_better
from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.ranking import ap_and_auc, d_prime, precision_recall_curve
from audiotag.evaluation.thresholds import Thresholds

REFERENCE = Path(__file__).parents[1] / "data" / "ast"


@st.composite
def scored_labels(draw):
    """Scores (N,C), often tied, and labels of any rarity, with classes of one kind only among them."""
    num_clips, num_classes = draw(st.integers(1, 40)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.standard_normal((num_clips, num_classes))
    scores = np.round(scores, draw(st.integers(0, 2))) if draw(st.booleans()) else scores
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    labels = rng.random((num_clips, num_classes)) < draw(st.sampled_from([0.0, 0.05, 0.3, 0.9, 1.0]))
    return scores.astype(dtype), labels.astype(draw(st.sampled_from([bool, np.uint8, np.float32])))


def slow_error(truth, probabilities):
    """Expected calibration error from scikit-learn's curve, which leaves out how many pairs a bin has."""
    share, mean = calibration_curve(truth, probabilities, n_bins=15)
    edges = np.linspace(0, 1, 16)
    pairs = np.bincount(np.searchsorted(edges[1:-1], probabilities), minlength=15)
    return np.sum(np.abs(share - mean) * pairs[pairs > 0]) / len(truth)


def best_f1(truth, scores):
    """The best F1 over all thresholds of scikit-learn's precision-recall curve."""
    precision, recall, _ = sk.precision_recall_curve(truth, scores)
    return np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))


def test_the_stored_reference_values():
    tensors = load_file(REFERENCE / "metrics.safetensors")
    expected = json.loads((REFERENCE / "metrics.json").read_text())
    metrics = compute_metrics(tensors["scores"], tensors["targets"])
    np.testing.assert_allclose(metrics.ap, tensors["AP"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(metrics.auc, tensors["AUC"], rtol=0, atol=1e-9)
    names = {"mAP": "mAP", "mAUC": "mAUC", "d_prime": "d_prime", "acc": "accuracy"}
    for key, name in names.items():
        assert metrics.summary[name] == pytest.approx(expected[key], abs=1e-9), name


@settings(max_examples=150, deadline=None)
@given(scored_labels())
def test_everything_equals_scikit_learn(case):
    scores, labels = case
    metrics = compute_metrics(scores, labels)
    truth, guess = labels.astype(int), (scores > 0).astype(int)
    counted = [column for column in range(truth.shape[1]) if truth[:, column].any()]
    for column in range(truth.shape[1]):
        has_both = len(set(truth[:, column])) == 2
        if column in counted:
            expected = sk.average_precision_score(truth[:, column], scores[:, column])
            assert metrics.ap[column] == pytest.approx(expected, abs=1e-9)
            expected = sk.f1_score(truth[:, column], guess[:, column], zero_division=0)
            assert metrics.f1[column] == pytest.approx(expected, abs=1e-9)
        else:
            assert np.isnan(metrics.ap[column])
        if has_both:
            expected = sk.roc_auc_score(truth[:, column], scores[:, column])
            assert metrics.auc[column] == pytest.approx(expected, abs=1e-9)
        else:
            assert np.isnan(metrics.auc[column])
    summary = metrics.summary
    assert metrics.classes_without_positives == [c for c in range(truth.shape[1]) if c not in counted]
    if not counted:
        assert summary["mAP"] is None
        assert summary["mAP_micro"] is None
        return
    expected = sk.average_precision_score(truth.ravel(), scores.ravel())
    assert summary["mAP_micro"] == pytest.approx(expected, abs=1e-9)
    assert summary["exact_match"] == pytest.approx(sk.accuracy_score(truth, guess), abs=1e-9)
    flat = truth.ravel(), scores.ravel()
    if len(set(flat[0])) == 2:
        assert summary["mAUC_micro"] == pytest.approx(sk.roc_auc_score(*flat), abs=1e-9)
        expected = sk.roc_auc_score(flat[0], guess.ravel())
        assert summary["distil_roc_auc"] == pytest.approx(expected, abs=1e-9)
    else:
        assert summary["mAUC_micro"] is summary["distil_roc_auc"] is None
    if truth.shape[1] > 1:
        rows = truth.any(1)
        expected = sk.label_ranking_average_precision_score(
            truth[rows], scores[rows], sample_weight=truth[rows].sum(1)
        )
        assert summary["lwlrap"] == pytest.approx(expected, abs=1e-9)
    probabilities = 1 / (1 + np.exp(-scores.astype(np.float64)))
    expected = sk.log_loss(*map(np.ravel, (truth, probabilities)), labels=[0, 1])
    assert summary["loss"] == pytest.approx(expected, abs=1e-9)
    assert summary["ece_micro"] == pytest.approx(slow_error(truth.ravel(), probabilities.ravel()), abs=1e-9)
    each = [slow_error(*pair) for pair in zip(truth.T, probabilities.T, strict=True)]
    assert summary["ece_macro"] == pytest.approx(np.mean(each), abs=1e-9)
    best = [best_f1(truth[:, column], scores[:, column]) for column in counted]
    assert summary["f1_macro_best"] == pytest.approx(np.mean(best), abs=1e-9)
    assert summary["f1_micro_best"] == pytest.approx(best_f1(*flat), abs=1e-9)
    for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        expected = score(truth.ravel(), guess.ravel(), zero_division=0)
        assert summary[f"{name}_micro"] == pytest.approx(expected, abs=1e-9)
        each = [score(truth[:, column], guess[:, column], zero_division=0) for column in counted]
        assert summary[f"{name}_macro"] == pytest.approx(np.mean(each), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(scored_labels())
def test_the_order_of_clips_and_a_monotone_map_change_no_ranking_metric(case):
    scores, labels = case
    order = np.random.default_rng(0).permutation(len(scores))
    before, after = compute_metrics(scores, labels), compute_metrics(8 * scores[order], labels[order])
    np.testing.assert_allclose(before.ap, after.ap, rtol=0, atol=1e-12)
    np.testing.assert_allclose(before.auc, after.auc, rtol=0, atol=1e-12)


def test_ties_by_hand():
    # One positive and one negative share the top score: P(s+ > s-) + P(s+ = s-)/2 = (0.5 + 1)/2.
    ap, auc = ap_and_auc(np.array([2.0, 2.0, 1.0]), np.array([True, False, False]))
    assert (ap, auc) == (0.5, 0.75)
    # All scores equal: AP is the share of positives, AUC is chance.
    ap, auc = ap_and_auc(np.zeros(4), np.array([True, False, False, False]))
    assert (ap, auc) == (0.25, 0.5)


def test_one_positive_has_the_inverse_of_its_rank_as_ap():
    scores, labels = np.arange(10.0)[:, None], np.zeros((10, 1))
    labels[7] = 1
    metrics = compute_metrics(scores, labels)
    assert metrics.ap[0] == pytest.approx(1 / 3)
    assert metrics.auc[0] == pytest.approx(7 / 9)


def test_classes_without_positives_or_negatives_are_left_out():
    scores = np.array([[2.0, 0.3, 1.0], [1.0, -0.4, -1.0], [0.0, 0.1, 3.0]])
    labels = np.array([[0, 0, 1], [1, 0, 1], [0, 0, 1]])
    metrics = compute_metrics(scores, labels)
    assert metrics.classes_without_positives == [1]
    assert metrics.summary["num_classes_without_positives"] == 1
    assert metrics.summary["num_classes_without_negatives"] == 1
    assert metrics.summary["mAP"] == pytest.approx((0.5 + 1.0) / 2)
    assert metrics.summary["mAUC"] == pytest.approx(0.5)
    assert metrics.summary["d_prime"] == pytest.approx(0.0)
    assert math.isnan(metrics.ap[1])
    assert math.isnan(metrics.auc[2])
    zeroed = compute_metrics(scores, labels, zero_without_positives=True)
    assert zeroed.summary["mAP"] == pytest.approx((0.5 + 0.0 + 1.0) / 3)
    # Nothing else changes, the AP of the class itself neither.
    assert {**zeroed.summary, "mAP": None} == {**metrics.summary, "mAP": None}
    np.testing.assert_array_equal(zeroed.ap, metrics.ap)
    none = compute_metrics(scores, np.zeros((3, 3)), zero_without_positives=True).summary
    assert (none["mAP"], none["mAUC"]) == (0.0, None)


def test_the_summary_is_json_even_where_values_do_not_exist():
    perfect = compute_metrics(np.array([[1.0], [0.0]]), np.array([[1], [0]])).summary
    assert perfect["mAUC"] == 1.0
    assert perfect["d_prime"] is None
    empty = compute_metrics(np.ones((2, 2)), np.zeros((2, 2))).summary
    assert empty["mAP"] is empty["mAUC"] is empty["f1_macro"] is empty["top1_in_labels"] is None
    json.dumps([perfect, empty], allow_nan=False)


def test_d_prime():
    assert d_prime(0.5) == pytest.approx(0.0)
    assert d_prime(0.97856) == pytest.approx(2.8637, abs=2e-4)
    assert d_prime(1.0) == math.inf
    assert d_prime(0.0) == -math.inf
    assert math.isnan(d_prime(math.nan))


def test_the_three_accuracies():
    labels = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 0, 1]])
    logits = np.array([[-1.0, 1.0, 2.0], [3.0, -1.0, -2.0], [-1.0, -2.0, -3.0], [1.0, -1.0, 1.0]])
    summary = compute_metrics(logits, labels).summary
    # By first label: clip 0 misses (top is its second label); clip 2 has none, and argmax gives 0 for both.
    assert summary["accuracy"] == 3 / 4
    assert summary["top1_in_labels"] == 3 / 3
    assert summary["exact_match"] == 4 / 4
    assert summary["num_clips_without_labels"] == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 30.0, 1e4]))
def test_the_loss_is_that_of_torch_on_logits_of_any_size(seed, size):
    rng = np.random.default_rng(seed)
    logits, labels = size * rng.standard_normal((1100, 3)), rng.random((1100, 3)) < 0.3
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits), torch.from_numpy(labels).double()
    )
    assert compute_metrics(logits, labels).summary["loss"] == pytest.approx(expected.item(), rel=1e-12)


def test_the_loss_takes_logits_and_not_probabilities():
    assert compute_metrics(np.array([[0.0, 0.0]]), np.array([[1, 0]])).summary["loss"] == pytest.approx(
        math.log(2)
    )
    sure = compute_metrics(np.array([[50.0, -50.0]]), np.array([[1, 0]])).summary
    assert sure["loss"] == pytest.approx(0.0, abs=1e-15)


def test_half_precision_scores_are_compared_in_float32():
    scores = np.array([[1.0], [0.5], [0.25]], dtype=np.float16)
    assert compute_metrics(scores, np.array([[0], [1], [0]])).ap[0] == 0.5


@settings(max_examples=100, deadline=None)
@given(scored_labels())
def test_the_area_under_the_precision_recall_steps_is_the_ap(case):
    scores, labels = case
    positive = labels[:, 0] > 0
    if not positive.any():
        return
    recall, precision = precision_recall_curve(scores[:, 0], positive)
    assert recall[-1] == 1.0
    assert np.all(np.diff(recall) > 0)
    area = np.sum(np.diff(recall, prepend=0.0) * precision)
    assert area == pytest.approx(sk.average_precision_score(positive, scores[:, 0]), abs=1e-9)


def test_scores_that_are_not_finite_name_their_clips():
    scores = np.zeros((9, 2))
    scores[[1, 3, 4, 5, 6, 8], 1] = [np.nan, np.inf, -np.inf, np.nan, np.nan, np.nan]
    ids = [f"clip{row}" for row in range(9)]
    with pytest.raises(DataError, match=r"6 of 9 clips.*clip1, clip3, clip4, clip5, clip6, \.\.\."):
        compute_metrics(scores, np.ones((9, 2)), ids=ids)
    with pytest.raises(DataError, match="row 1, row 3"):
        compute_metrics(scores, np.ones((9, 2)))


@pytest.mark.parametrize("value", [0.5, 2, -1, np.inf])
def test_soft_labels_are_refused(value):
    labels = np.zeros((3, 2))
    labels[2, 1] = value
    with pytest.raises(DataError, match="labels of 1 of 3 clips are not 0 or 1: row 2"):
        compute_metrics(np.zeros((3, 2)), labels)


@pytest.mark.parametrize(
    ("scores", "labels"), [((3, 2), (3, 3)), ((3,), (3,)), ((0, 2), (0, 2)), ((2, 0), (2, 0))]
)
def test_shapes_that_do_not_fit_are_refused(scores, labels):
    with pytest.raises(DataError, match="same shape"):
        compute_metrics(np.zeros(scores), np.zeros(labels))


def test_a_probability_on_an_edge_belongs_to_the_bin_below():
    pairs, _, positives = bin_sums(EDGES, EDGES)
    assert pairs.tolist() == positives.tolist() == [1] * 14 + [0]


def test_every_metric_has_its_name_and_meaning():
    summary = compute_metrics(np.ones((2, 2)), np.eye(2)).summary
    assert [name for name in summary if not name.startswith("num_")] == list(METRIC_NAMES)
    tuned = Thresholds("valid", 0.0, np.zeros(2))
    summary = compute_metrics(np.ones((2, 2)), np.eye(2), tuned=tuned).summary
    assert {name for name in summary if not name.startswith("num_")} == {*METRIC_NAMES, *TUNED_NAMES}


def test_names_are_checked_and_less_is_better_of_some():
    assert check_metric_name("mAP") == "mAP"
    for wrong, near in (("map", "mAP"), ("F1_Macro", "f1_macro"), ("lwrap", "lwlrap")):
        with pytest.raises(ValueError, match=f"did you mean '{near}'"):
            check_metric_name(wrong)
    with pytest.raises(ValueError, match="known: mAP, mAUC"):
        check_metric_name("xyzzy")
    assert [name for name in METRIC_NAMES if less_is_better(name)] == ["ece_micro", "ece_macro", "loss"]


def test_the_metric_of_the_best_checkpoint_is_checked_with_the_configuration():
    assert load_config(None, ["training.best_metric=f1_macro"]).training.best_metric == "f1_macro"
    with pytest.raises(ConfigError, match=r"training\.best_metric: unknown metric \(did you mean 'mAUC'\?\)"):
        load_config(None, ["training.best_metric=mauc"])


def test_the_tables_of_espnet_and_distil_ast():
    scores = np.array([[2.0, 0.3, 1.0], [1.0, -0.4, -1.0], [0.0, 0.1, 3.0]])
    labels = np.array([[0, 0, 1], [1, 0, 1], [0, 0, 1]])
    summary = compute_metrics(scores, labels).summary
    # A class without positives has AP 0 and AUC 0, one without negatives AUC 0.
    assert summary["espnet_mAP"] == pytest.approx(100 * (0.5 + 0.0 + 1.0) / 3)
    assert summary["espnet_mean_auc"] == pytest.approx(100 * (0.5 + 0.0 + 0.0) / 3)
    # The highest scores are of classes 0, 0, 2; the first labels are 2, 0, 2.
    assert summary["espnet_mean_acc"] == pytest.approx(100 * 2 / 3)
    assert (summary["distil_f1"], summary["distil_mAP"]) == (summary["f1_micro"], summary["mAP_micro"])
    assert summary["distil_accuracy"] == summary["exact_match"] == 0
    # 3 of 4 labels are found; 2 of 5 that are none are not claimed.
    assert summary["distil_roc_auc"] == pytest.approx((3 / 4 + 2 / 5) / 2)


def test_calibration_by_hand():
    # Half of the pairs at probability 0.5 are positive; all at 0.9 are.
    logits = np.array([[0.0, 0.0, math.log(9), math.log(9)]])
    metrics = compute_metrics(logits, np.array([[1, 0, 1, 1]]))
    assert metrics.summary["ece_micro"] == pytest.approx(2 / 4 * 0.1)
    assert metrics.summary["ece_macro"] == pytest.approx((0.5 + 0.5 + 0.1 + 0.1) / 4)
    assert metrics.bins[:, 7].tolist() == [2, 1, 1]
    np.testing.assert_allclose(metrics.bins[:, 13], [2, 1.8, 2])
    assert metrics.bins[0].sum() == 4


@pytest.mark.parametrize("shape", [(6, 1), (1, 6), (6, 3)])
def test_what_is_measured_is_left_as_it_was(shape):
    scores = np.random.default_rng(0).standard_normal(shape)
    before = scores.copy()
    compute_metrics(scores, np.ones(shape))
    np.testing.assert_array_equal(scores, before)
