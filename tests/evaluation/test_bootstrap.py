"""Resampled metrics are those of the drawn clips, and intervals hold what they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.evaluation import weightedranking
from audiotag.evaluation.bootstrap import Draws, draw_weights, intervals, paired_difference, resample
from audiotag.evaluation.metricnames import METRIC_NAMES, TUNED_NAMES
from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.ranking import d_prime
from audiotag.evaluation.resampling import Resampled
from audiotag.evaluation.thresholds import Thresholds

# Not resampled: what repeats another metric, and the mean of the classes' calibration errors.
LEFT_OUT = {name for name in METRIC_NAMES if name.startswith(("espnet_", "distil_"))} | {"ece_macro"}


@pytest.fixture(params=[512, 2])
def steps_at_once(request, monkeypatch):
    """Rankings in one piece, and in many."""
    monkeypatch.setattr(weightedranking, "STEPS_AT_ONCE", request.param)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2), st.booleans(), st.booleans())
def check_resamplings(seed, digits, some_unknown, zero):
    rng = np.random.default_rng(seed)
    num_clips, num_classes = int(rng.integers(2, 30)), int(rng.integers(1, 5))
    scores = np.round(2 * rng.standard_normal((num_clips, num_classes)), digits).astype(np.float32)
    labels = (rng.random(scores.shape) < rng.choice([0.1, 0.5])).astype(np.float32)
    if some_unknown:
        labels[rng.random(scores.shape) < 0.3] = np.nan
    options = {
        "zero_without_positives": zero,
        "tuned": Thresholds("valid", 0.25, rng.standard_normal(num_classes)),
    }
    weights = draw_weights(num_clips, 3, rng)
    found, ap = Resampled(scores, labels, **options).metrics(weights)
    assert set(found) == {*METRIC_NAMES, *TUNED_NAMES} - LEFT_OUT
    for column, counts in enumerate(weights.T.astype(int)):
        rows = np.repeat(np.arange(num_clips), counts)
        expected = compute_metrics(scores[rows], labels[rows], **options)
        np.testing.assert_allclose(ap[:, column], expected.ap, atol=1e-6)
        for name, values in found.items():
            value = expected.summary[name]
            if value is None:
                assert not np.isfinite(values[column]), name
            else:
                # d' rises without bound near an AUC of 1, where single precision shows.
                tolerance = 1e-4 if name == "d_prime" else 2e-6
                assert values[column] == pytest.approx(value, abs=tolerance), name


def test_a_resampling_has_the_metrics_of_the_clips_that_were_drawn(steps_at_once):
    check_resamplings()


def test_weights_are_draws_with_replacement():
    weights = draw_weights(50, 400, np.random.default_rng(0))
    assert (weights.sum(0) == 50).all()
    # The count of a clip is binomial with mean 1 and variance 1 - 1/50.
    assert weights.var() == pytest.approx(1 - 1 / 50, abs=0.02)
    assert not np.array_equal(weights[:, 0], weights[:, 1])


def test_resamplings_depend_on_the_seed_alone(make_scores):
    scores = make_scores(30, 4)
    system = Resampled(scores.logits, scores.labels)
    one, two = (resample([system], 30, 300, seed=5, threads=threads)[0] for threads in (1, 3))
    for name, values in one.metrics.items():
        assert len(values) == 300
        np.testing.assert_array_equal(values, two.metrics[name])
    np.testing.assert_array_equal(one.ap, two.ap)
    other = resample([system], 30, 300, seed=6)[0]
    assert not np.array_equal(one.metrics["mAP"], other.metrics["mAP"])
    assert len(set(one.metrics["accuracy"][:128])) > 5
    assert not np.array_equal(one.metrics["mAP"][:128], one.metrics["mAP"][128:256])


def test_the_interval_of_a_share_is_that_of_the_normal_approximation(make_scores):
    scores = make_scores(400, 3)
    measured = compute_metrics(scores.logits, scores.labels).summary
    [draws] = resample([Resampled(scores.logits, scores.labels)], 400, 2000)
    found = intervals(draws, measured)
    share = measured["exact_match"]
    half = 1.96 * np.sqrt(share * (1 - share) / 400)
    assert found["exact_match"] == pytest.approx([share - half, share + half], abs=0.1 * half)
    assert set(found) == {*METRIC_NAMES} - LEFT_OUT
    for name, (low, high) in found.items():
        assert low <= measured[name] <= high, name
    assert found["d_prime"] == [d_prime(bound) for bound in found["mAUC"]]


def test_intervals_are_centred_on_what_was_measured_and_stay_shares():
    draws = Draws({"mAP": np.linspace(0.5, 0.7, 201), "loss": np.linspace(0.0, 0.2, 201)}, np.zeros((1, 201)))
    found = intervals(draws, {"mAP": 0.55, "loss": 0.01})
    assert found["mAP"] == pytest.approx([0.455, 0.645])
    assert found["loss"] == pytest.approx([-0.085, 0.105])
    assert intervals(draws, {"mAP": 0.98, "loss": None})["mAP"][1] == 1.0
    assert "loss" not in intervals(draws, {"mAP": 0.98, "loss": None})
    # Where a resampling has no clip of the only class it does not count, up to one in twenty.
    draws.metrics["mAP"][[0, 200]] = np.nan
    assert intervals(draws, {"mAP": 0.55})["mAP"] == pytest.approx([0.456, 0.644], abs=1e-3)
    draws.metrics["mAP"][:11] = np.nan
    assert "mAP" not in intervals(draws, {"mAP": 0.55})


def test_a_d_prime_without_bound_has_no_interval():
    of_auc = {"mAUC": np.linspace(0.8, 1.0, 201), "d_prime": np.full(201, np.inf)}
    found = intervals(Draws(of_auc, np.zeros((1, 201))), {"mAUC": 0.95, "d_prime": 2.3})
    assert "d_prime" not in found
    found = intervals(Draws(of_auc, np.zeros((1, 201))), {"mAUC": 0.85, "d_prime": 1.4})
    assert found["d_prime"] == [d_prime(bound) for bound in found["mAUC"]]


def test_differences_by_hand():
    spread = np.linspace(-0.1, 0.1, 1001)
    zero = np.zeros(1001)
    none = paired_difference((0.5, 0.5), (zero, spread))
    assert none[:3] == pytest.approx((0.0, -0.095, 0.095))
    assert none.p_value == 1.0
    some = paired_difference((0.5, 0.58), (zero, spread))
    assert some[:3] == pytest.approx((0.08, -0.015, 0.175))
    # 101 of 1,001 resamplings are at or below 0.
    assert some.p_value == pytest.approx(2 * 102 / 1002, abs=0.003)
    assert paired_difference((0.9, 0.5), (zero, spread)).p_value == pytest.approx(2 / 1002)
    assert paired_difference((0.5, 0.5), (zero, zero)) == (0.0, 0.0, 0.0, 1.0)
