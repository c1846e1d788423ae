"""Means of probabilities and of logits: exact near 0 and 1, of sigmoids and of softmaxes, weighed."""

from __future__ import annotations

from fractions import Fraction
from math import exp

import numpy as np
import pytest
import torch

from audiotag.evaluation.logodds import log_odds
from audiotag.evaluation.mixture import Mixture, mix


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@pytest.fixture
def members():
    rng = np.random.default_rng(0)
    return [rng.normal(0, 4, (30, 5)).astype(np.float32) for _ in range(3)]


def test_the_mean_of_probabilities_is_that(members):
    mixed = mix(members, [1, 1, 1])
    assert mixed.dtype == np.float32
    expected = np.mean([sigmoid(logits) for logits in members], axis=0)
    np.testing.assert_allclose(sigmoid(mixed), expected, rtol=1e-6)
    weighed = mix(members, [0.5, 0.2, 0.3])
    expected = sum(w * sigmoid(z) for w, z in zip((0.5, 0.2, 0.3), members, strict=True))
    np.testing.assert_allclose(sigmoid(weighed), expected, rtol=1e-6)


def test_weights_count_by_their_ratio(members):
    for combine in ("probabilities", "logits"):
        np.testing.assert_allclose(
            mix(members, [5, 2, 3], combine), mix(members, [0.5, 0.2, 0.3], combine), rtol=1e-5, atol=1e-6
        )


def test_the_mean_of_logits_is_that(members):
    expected = 0.5 * members[0] + 0.25 * members[1] + 0.25 * members[2]
    np.testing.assert_allclose(mix(members, [2, 1, 1], "logits"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "logits", [(-90.0, -50.0), (90.0, 50.0), (-900.0, -904.0), (30.0, -30.0), (1e4, 9e3)]
)
def test_nothing_is_lost_near_0_and_1(logits):
    """In probabilities of float64 all but the fourth pair would be 0 or 1."""
    [[found]] = mix([np.array([[z]], np.float32) for z in logits], [1, 1])
    smaller = min(map(abs, logits))
    if logits[0] * logits[1] < 0:
        assert found == pytest.approx(0.0, abs=1e-6)
    else:
        # With the odds of the smaller one as unit: p is about the mean of exp(-|z|), exactly enough here.
        mean = (1 + Fraction(exp(smaller - max(map(abs, logits))))) / 2
        expected = smaller - float(np.log(float(mean)))
        assert found == pytest.approx(np.sign(logits[0]) * expected, rel=1e-6)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_members_that_agree_are_left_as_they_are(members, combine):
    extreme = np.array([[-200.0, 200.0, 0.0, 1e-3, -88.0]], np.float32)
    for logits in (members[0], extreme):
        np.testing.assert_allclose(mix([logits] * 4, [1, 2, 3, 4], combine), logits, rtol=1e-6, atol=1e-6)


def test_softmaxes_have_a_mean_that_is_one():
    """Of models trained over the classes, whose scores are the log odds of their softmax."""
    rng = np.random.default_rng(1)
    raw = [rng.normal(0, 3, (20, 6)).astype(np.float32) for _ in range(2)]
    mixed = sigmoid(mix([log_odds(logits) for logits in raw], [1, 1]))
    expected = torch.stack([torch.from_numpy(logits).double().softmax(1) for logits in raw]).mean(0)
    np.testing.assert_allclose(mixed, expected.numpy(), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(mixed.sum(1), 1, rtol=1e-6)


def test_a_member_of_weight_0_leaves_no_trace(members):
    spoilt = np.full_like(members[0], np.inf)
    for combine in ("probabilities", "logits"):
        np.testing.assert_array_equal(
            mix([members[0], spoilt], [1, 0], combine), mix([members[0]], [1], combine)
        )


def test_a_mixture_may_be_looked_at_on_the_way(members):
    mixture = Mixture("probabilities")
    for count, logits in enumerate(members, start=1):
        mixture.add(logits)
        np.testing.assert_array_equal(mixture.logits(), mix(members[:count], [1] * count))
