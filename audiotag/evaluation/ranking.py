"""What follows from the order of scores alone: AP, AUC, d', lwlrap and the thresholds of the best F1.

None of it needs more of a ranking than how many scores, and how many positives, lie at or above each
positive's score; looking those up in sorted scores costs little because positives are few. Scores that
are tied are treated as one step.

Legend: N clips, C classes, P distinct scores of positives, ascending. Counts may be weighted and may have
further axes behind the first, such as one for resamplings.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

NAN = float("nan")
PAIRS_AT_ONCE = 256


class Steps(NamedTuple):
    """A ranking at each distinct score of a positive: arrays of length P, ascending in score.

    found: positives at the score; above: positives at or above it; tied: all at it; not_below: all at or
    above it.
    """

    scores: np.ndarray
    found: np.ndarray
    above: np.ndarray
    tied: np.ndarray
    not_below: np.ndarray


def find_steps(ranked: np.ndarray, of_positives: np.ndarray) -> Steps:
    """The steps of a ranking: all its scores, ascending, and those of its positives in any order."""
    scores, below, found = np.unique(np.sort(of_positives), return_index=True, return_counts=True)
    left = np.searchsorted(ranked, scores, side="left")
    right = np.searchsorted(ranked, scores, side="right")
    return Steps(scores, found, len(of_positives) - below, right - left, len(ranked) - left)


def average_precision(found: np.ndarray, above: np.ndarray, not_below: np.ndarray) -> np.ndarray:
    """Average precision, not interpolated; NaN where there is no positive."""
    positives = found.sum(0)
    total = np.sum(found * (above / np.maximum(not_below, 1)), axis=0)
    return np.divide(total, positives, out=np.full(np.shape(total), NAN), where=positives > 0)


def roc_area(
    found: np.ndarray, above: np.ndarray, tied: np.ndarray, not_below: np.ndarray, negatives: np.ndarray | int
) -> np.ndarray:
    """Area under the ROC curve; NaN where there is no positive or no negative."""
    # P(s+ > s-) + P(s+ = s-) / 2, summed over the positives at each step.
    lower = negatives - (not_below - above) + 0.5 * (tied - found)
    pairs = np.asarray(found.sum(0) * np.asarray(negatives, dtype=np.float64))
    total = np.sum(found * lower, axis=0)
    return np.divide(total, pairs, out=np.full(np.shape(total), NAN), where=pairs > 0)


def best_f1(above: np.ndarray, not_below: np.ndarray, positives: np.ndarray | int) -> np.ndarray:
    """F1 at each step when everything at or above it is predicted; no other threshold can be better."""
    return 2 * above / np.maximum(not_below + positives, 1)


def ap_and_auc(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Average precision and area under the ROC curve of one ranking.

    scores: (N,); positive: (N,) bool. NaN where there is no positive (AP) or only one kind (AUC).
    """
    _, found, above, tied, not_below = find_steps(np.sort(scores), scores[positive])
    negatives = len(scores) - int(found.sum())
    auc = roc_area(found, above, tied, not_below, negatives)
    return float(average_precision(found, above, not_below)), float(auc)


def precision_recall_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at every score where recall rises, highest score first.

    scores: (N,); positive: (N,) bool with at least one True. The area under the steps is the AP.
    """
    steps = find_steps(np.sort(scores), scores[positive])
    return (steps.above / positive.sum())[::-1], (steps.above / steps.not_below)[::-1]


def d_prime(mean_auc: float) -> float:
    """Sensitivity index of an AUC: the distance of two unit normals that overlap as much."""
    if math.isnan(mean_auc):
        return NAN
    if mean_auc <= 0.0 or mean_auc >= 1.0:
        return math.copysign(math.inf, mean_auc - 0.5)
    return math.sqrt(2) * NormalDist().inv_cdf(mean_auc)


def label_ranking_precision(scores: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """For every positive pair, the share of positives among the classes that its clip scores as high.

    scores: (N,C), -inf where a class is unknown for a clip; rows, columns: (M,), the positive pairs, in
    the order of their rows. The mean of the result is the label-weighted label-ranking average precision.
    """
    own = scores[rows, columns]
    not_below = np.empty(len(rows))
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        not_below[part] = np.count_nonzero(scores[rows[part]] >= own[part, None], axis=1)
    # Positives of each clip in ascending order of score; from the first of a tie to the clip's last.
    order = np.lexsort((own, rows))
    clip, score = rows[order], own[order]
    starts = np.append(True, (clip[1:] != clip[:-1]) | (score[1:] != score[:-1]))[: len(rows)]
    first_tied = np.maximum.accumulate(np.where(starts, np.arange(len(rows)), 0))
    above = np.empty(len(rows))
    above[order] = np.searchsorted(clip, clip, side="right") - first_tied
    return above / not_below
