"""Fitted weights: a mixture that is known comes back, the least loss is found, nothing is left to chance."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from audiotag.errors import DataError
from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.mixture import mix
from audiotag.evaluation.mixtureweights import fit_weights, mean_average_precision

TRUE = np.array([0.5, 0.3, 0.2, 0.0])


def drawn_from(members: list[np.ndarray], weights: np.ndarray, combine: str) -> np.ndarray:
    """Labels whose probabilities are those of a mixture."""
    probabilities = 1 / (1 + np.exp(-mix(members, weights, combine).astype(np.float64)))
    return (np.random.default_rng(1).random(probabilities.shape) < probabilities).astype(np.float32)


@pytest.fixture(scope="module")
def members() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(-2, 1.5, (3000, 20)).astype(np.float32) for _ in TRUE]


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
@pytest.mark.parametrize("fit", ["loss", "mAP"])
def test_a_known_mixture_comes_back(members, combine, fit):
    labels = drawn_from(members, TRUE, combine)
    weights = fit_weights(members, labels, combine=combine, fit=fit)
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights, TRUE, atol=0.03 if fit == "loss" else 0.1)
    np.testing.assert_array_equal(weights, fit_weights(members, labels, combine=combine, fit=fit))


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_no_other_weights_have_less_loss(members, combine):
    labels = drawn_from(members, TRUE, combine)
    weights = fit_weights(members, labels, combine=combine)

    def loss(weights):
        return compute_metrics(mix(members, weights, combine), labels).summary["loss"]

    least = loss(weights)
    rng = np.random.default_rng(2)
    for _ in range(20):
        other = np.clip(weights + rng.normal(0, 0.02, len(weights)), 0, None)
        assert least <= loss(other / other.sum()) + 1e-8


def test_a_member_that_only_harms_gets_nothing(members):
    labels = drawn_from(members, np.array([1.0, 0, 0, 0]), "probabilities")
    for fit in ("loss", "mAP"):
        weights = fit_weights([members[0], -members[0]], labels, fit=fit)
        np.testing.assert_allclose(weights, [1, 0], atol=1e-6)


def test_forward_selection_is_at_least_as_good_as_every_member(members):
    labels = drawn_from(members, TRUE, "probabilities")
    weights = fit_weights(members, labels, fit="mAP")
    of_bag = compute_metrics(mix(members, weights), labels).summary["mAP"]
    assert of_bag > max(compute_metrics(logits, labels).summary["mAP"] for logits in members)


def test_unknown_labels_have_no_part(members):
    labels = drawn_from(members, TRUE, "probabilities")
    unknown = labels.copy()
    unknown[1500:] = np.nan
    for fit in ("loss", "mAP"):
        weights = fit_weights(members, unknown, fit=fit)
        known = fit_weights([logits[:1500] for logits in members], labels[:1500], fit=fit)
        np.testing.assert_allclose(weights, known, atol=1e-6)


def test_certain_mistakes_are_weighed_too():
    """The logarithm of a probability that rounds to 0 is a number nevertheless."""
    sure = np.array([[-900.0, 900.0], [900.0, -900.0]], np.float32)
    unsure = np.zeros((2, 2), np.float32)
    labels = np.array([[1, 0], [0, 1]], np.float32)
    for combine in ("probabilities", "logits"):
        np.testing.assert_allclose(fit_weights([sure, unsure], labels, combine=combine), [0, 1], atol=1e-6)


def test_one_member_has_all_the_weight(members):
    assert fit_weights(members[:1], np.ones_like(members[0])) == [1.0]


def test_without_labels_there_is_nothing_to_fit(members):
    with pytest.raises(DataError, match="none of the clips has a label; take member_weights uniform"):
        fit_weights(members, np.zeros_like(members[0]))


def test_the_map_is_that_of_scikit_learn(members):
    labels = drawn_from(members, TRUE, "probabilities")
    labels[:, 3] = 0
    expected = [average_precision_score(labels[:, c], members[0][:, c]) for c in range(20) if c != 3]
    assert mean_average_precision(members[0], labels) == pytest.approx(np.mean(expected))
