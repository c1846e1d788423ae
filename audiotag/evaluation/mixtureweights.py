"""Weights of an ensemble's members, fitted on clips that it is not measured on.

`loss` minimises the cross-entropy of the mean. It is convex in the weights, of probabilities and of logits:
there is one minimum, it is found, and how far it may still be away is known. `mAP` has no slope; it is raised
by forward selection: the member that helps most is added to the bag, again and again, with replacement
(Caruana and others, "Ensemble selection from libraries of models", ICML 2004). Neither has any chance in it.

Shapes: M members, N clips, C classes, P clip-class pairs whose label is known.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from audiotag.errors import DataError
from audiotag.evaluation.mixture import Combine
from audiotag.evaluation.ranking import average_precision, find_steps

logger = logging.getLogger(__name__)

SMALLEST = 1e-300  # of a probability: its logarithm and its inverse are numbers
LARGEST_GAP = 1e-4  # of the loss, as a share of it, to the minimum
PRECISION = 1e-13
MOST_STEPS = 500
# A bag is as large as it helps; of those that do not, so many more than members are tried.
MOST_IN_BAG = 100


def fit_weights(
    members: Sequence[NDArray], labels: NDArray, *, combine: Combine = "probabilities", fit: str = "loss"
) -> NDArray[np.float64]:
    """Weights (M,), none below 0, with a sum of 1.

    Args:
        members: logits (N,C) of each.
        labels: (N,C), 0 or 1, NaN where not known.
        combine: of what the ensemble is the mean.
        fit: `loss` or `mAP`, what they make best.
    """
    if not (labels == 1).any():
        raise DataError(
            "weights cannot be fitted: none of the clips has a label; take member_weights uniform, or clips "
            "with labels"
        )
    if len(members) == 1:
        return np.ones(1)
    if fit == "mAP":
        return select_forward(members, labels, combine)
    return minimise_loss(members, labels, combine)


def minimise_loss(members: Sequence[NDArray], labels: NDArray, combine: Combine) -> NDArray[np.float64]:
    """The weights with the least cross-entropy."""
    # A third of a second to import, and only fitting needs it.
    from scipy.optimize import minimize

    known = ~np.isnan(labels)
    signs = np.where(labels[known] == 1, 1.0, -1.0)
    of_members = np.stack([signs * logits[known].astype(np.float64) for logits in members])
    measure = loss_of_logits
    if combine == "probabilities":
        measure = loss_of_probabilities
        # Of what is true of each pair.
        of_members = np.maximum(np.exp(-np.logaddexp(0.0, -of_members)), SMALLEST)
    even = np.full(len(members), 1 / len(members))
    scale = max(measure(even, of_members)[0], SMALLEST)

    def scaled(weights: NDArray) -> tuple[float, NDArray]:
        loss, slope = measure(weights, of_members)
        return loss / scale, slope / scale

    found = minimize(
        scaled,
        even,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * len(members),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": PRECISION, "maxiter": MOST_STEPS},
    )
    weights = np.clip(found.x, 0.0, None)
    weights /= weights.sum()
    loss, slope = scaled(weights)
    # Of a convex function: nowhere among the weights does it lie further below.
    gap = float(slope @ weights - slope.min()) / max(loss, SMALLEST)
    logger.info(
        "fitted weights: cross-entropy %.6g, with equal weights %.6g; the least lies at most %.2g %% lower",
        loss * scale,
        scale,
        100 * gap,
    )
    if gap > LARGEST_GAP:
        logger.warning("the weights may not be the best ones: the search ended early (%s)", found.message)
    return weights


def loss_of_probabilities(weights: NDArray, of_members: NDArray) -> tuple[float, NDArray]:
    """Cross-entropy of a mean of probabilities, and its slope (M,).

    of_members: (M,P), the probability that each gives to what is true of a pair.
    """
    mean = np.maximum(weights @ of_members, SMALLEST)
    return float(-np.log(mean).mean()), -(of_members @ (1.0 / mean)) / len(mean)


def loss_of_logits(weights: NDArray, of_members: NDArray) -> tuple[float, NDArray]:
    """Cross-entropy of the sigmoid of a mean of logits, and its slope (M,).

    of_members: (M,P), the logit that each gives to what is true of a pair.
    """
    mean = weights @ of_members
    wrong = np.exp(-np.logaddexp(0.0, mean))
    return float(np.logaddexp(0.0, -mean).mean()), -(of_members @ wrong) / len(mean)


def select_forward(members: Sequence[NDArray], labels: NDArray, combine: Combine) -> NDArray[np.float64]:
    """The shares of the members in the bag with the highest mAP; of equal ones the smallest bag."""
    scores = [logits.astype(np.float64) for logits in members]
    if combine == "probabilities":
        scores = [np.exp(-np.logaddexp(0.0, -logits)) for logits in scores]
    counts = np.zeros(len(members), dtype=np.int64)
    total = np.zeros_like(scores[0])
    best, best_counts = -1.0, counts
    while counts.sum() < MOST_IN_BAG and counts.sum() <= best_counts.sum() + len(members):
        values = [mean_average_precision(total + own, labels) for own in scores]
        added = int(np.argmax(values))  # the first of equal ones
        counts[added] += 1
        total += scores[added]
        if values[added] > best:
            best, best_counts = values[added], counts.copy()
    logger.info("fitted weights: mAP %.4f with a bag of %d", best, best_counts.sum())
    return best_counts / best_counts.sum()


def mean_average_precision(scores: NDArray, labels: NDArray) -> float:
    """mAP over the classes that have positives."""
    values = []
    for column, truth in zip(scores.T, labels.T, strict=True):
        of_positives = column[truth == 1]
        if len(of_positives):
            _, found, above, _, not_below = find_steps(np.sort(column[~np.isnan(truth)]), of_positives)
            values.append(average_precision(found, above, not_below))
    return float(np.mean(values))
