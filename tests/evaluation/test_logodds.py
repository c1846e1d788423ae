"""Log odds of a softmax against exact arithmetic, where probabilities are near 0 and 1 too."""

from __future__ import annotations

import warnings
from fractions import Fraction
from math import log

import numpy as np
import pytest
import torch

from audiotag.evaluation.logodds import log_odds


@pytest.mark.parametrize(
    "weights", [(1, 1), (1, 2, 5), (10**18, 1, 3), (1, 10**30, 10**30), (7, 10**-200 * 1.0, 1)]
)
def test_odds_are_those_of_the_softmax(weights):
    exact = [Fraction(weight) for weight in weights]
    expected = [float(log(weight) - log(sum(exact) - weight)) for weight in exact]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = log_odds(np.log(np.array([weights], np.float64)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [expected], rtol=1e-6, atol=1e-7)


def test_every_row_by_itself():
    logits = torch.randn(50, 20, generator=torch.Generator().manual_seed(1)) * 4
    odds = log_odds(logits.numpy())
    torch.testing.assert_close(torch.from_numpy(odds).sigmoid(), logits.softmax(dim=1))
    np.testing.assert_array_equal(odds.argmax(axis=1), logits.argmax(dim=1))
    np.testing.assert_array_equal(log_odds(logits[7:9].numpy()), odds[7:9])


def test_equal_logits_have_equal_odds():
    odds = log_odds(np.random.default_rng(0).integers(0, 4, (500, 3)).astype(np.float32))
    logits = np.random.default_rng(0).integers(0, 4, (500, 3))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        np.testing.assert_array_equal(
            odds[:, first] == odds[:, second], logits[:, first] == logits[:, second]
        )


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_is_not_finite_stays_so_without_a_warning(bad):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not np.isfinite(log_odds(np.array([[0.0, bad, 1.0]], np.float32))).all()


@pytest.mark.parametrize("shape", [(0, 3), (4, 1)])
def test_no_clips_and_a_single_class_have_no_odds(shape):
    assert log_odds(np.ones(shape, np.float32)).tolist() == np.ones(shape).tolist()
