"""Ranking and threshold metrics of multi-label scores: AP, AUC, d', F1, accuracies, loss.

Legend: N clips, C classes. All ranking metrics group tied scores exactly. Each class is sorted once, by
value alone: AP and AUC need no more of the ranking than how many scores, and how many positives, lie at
or above each positive's score, and looking those up costs little because positives are few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from audiotag.errors import DataError

NAN = float("nan")
LOSS_ROWS = 512


@dataclass(frozen=True)
class Metrics:
    """Metrics of one evaluation: an array of length C per kind, and the summary over classes.

    AP and recall of a class without positives, and AUC of a class without positives or without
    negatives, are NaN. In the summary, values that do not exist or are infinite (the d' of a perfect
    ranking) are None, so that it can be written as JSON.
    """

    ap: np.ndarray
    auc: np.ndarray
    f1: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    positives: np.ndarray
    summary: dict[str, float | int | None]

    @property
    def classes_without_positives(self) -> list[int]:
        """Indices of the classes that are left out of the means."""
        return np.flatnonzero(self.positives == 0).tolist()


def compute_metrics(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    ids: Sequence[str] | None = None,
    zero_without_positives: bool = False,
) -> Metrics:
    """All metrics of a set of clips.

    logits: (N,C) floats, before the sigmoid: the loss and the threshold need them so, the ranking would
        be the same after it.
    labels: (N,C) multi-hot, 0 or 1.
    ids: N clip ids, for error messages.
    zero_without_positives: count classes without positives as AP 0 in mAP instead of leaving them out.

    Summary: `mAP`, `mAUC` (means over classes), `d_prime` (of mAUC), `mAP_micro` (all clip-class pairs as
    one ranking), `f1`, `precision`, `recall` at probability 0.5 as `_micro` and `_macro`, `accuracy` (the
    highest score is the first label), `top1_in_labels` (the highest score is one of the labels, over
    clips that have any), `exact_match` (at 0.5), `loss` (mean binary cross-entropy) and counts.
    """
    logits, positive = check(logits, labels, ids)
    by_class, positive_by_class = np.ascontiguousarray(logits.T), np.ascontiguousarray(positive.T)
    ranking = np.array([ap_and_auc(*pair) for pair in zip(by_class, positive_by_class, strict=True)])
    ap, auc = ranking[:, 0], ranking[:, 1]
    mean_auc = mean(auc)

    predicted = logits > 0
    positives = positive.sum(0)
    hits, guesses = (predicted & positive).sum(0), predicted.sum(0)
    precision, recall, f1 = precision_recall_f1(hits, guesses, positives)
    micro = precision_recall_f1(hits.sum(), guesses.sum(), positives.sum())
    counted = positives > 0

    top = logits.argmax(1)
    labelled = positive.any(1)
    top_is_label = positive[np.arange(len(top)), top]
    summary = {
        "mAP": mean(np.nan_to_num(ap, nan=0.0) if zero_without_positives else ap),
        "mAUC": mean_auc,
        "d_prime": d_prime(mean_auc),
        "mAP_micro": ap_and_auc(logits.ravel(), positive.ravel())[0],
        "f1_micro": float(micro[2]),
        "f1_macro": mean(f1),
        "precision_micro": float(micro[0]),
        "precision_macro": mean(precision[counted]),
        "recall_micro": float(micro[1]),
        "recall_macro": mean(recall),
        "accuracy": float(np.mean(top == positive.argmax(1))),
        "top1_in_labels": mean(top_is_label[labelled]),
        "exact_match": float(np.mean((predicted == positive).all(1))),
        "loss": mean_bce(logits, positive),
    }
    counts = {
        "num_clips": len(logits),
        "num_clips_without_labels": int(np.sum(~labelled)),
        "num_classes": len(positives),
        "num_classes_without_positives": int(np.sum(~counted)),
        "num_classes_without_negatives": int(np.sum(positives == len(logits))),
    }
    finite = {name: value if math.isfinite(value) else None for name, value in summary.items()}
    return Metrics(ap, auc, f1, precision, recall, positives, {**finite, **counts})


def ap_and_auc(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Average precision (not interpolated) and area under the ROC curve of one ranking.

    scores: (N,); positive: (N,) bool. NaN where there is no positive (AP) or only one kind (AUC).
    """
    num_positives, num_negatives = int(positive.sum()), int((~positive).sum())
    if num_positives == 0:
        return NAN, NAN
    found, above, tied, not_below = positive_thresholds(scores, positive)
    ap = np.sum(found * above / not_below) / num_positives
    if num_negatives == 0:
        return float(ap), NAN
    negatives_below = num_negatives - (not_below - above)
    negatives_tied = tied - found
    # P(s+ > s-) + P(s+ = s-) / 2, summed over the positives at each threshold.
    auc = np.sum(found * (negatives_below + 0.5 * negatives_tied)) / (num_positives * num_negatives)
    return float(ap), float(auc)


def precision_recall_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at every score where recall rises, highest score first.

    scores: (N,); positive: (N,) bool with at least one True. The area under the steps is the AP.
    """
    _, above, _, not_below = positive_thresholds(scores, positive)
    return (above / positive.sum())[::-1], (above / not_below)[::-1]


def positive_thresholds(
    scores: np.ndarray, positive: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Counts at each distinct score of a positive, in ascending order of score.

    Returns (positives at it, positives at or above it, all at it, all at or above it).
    """
    ranked = np.sort(scores)
    thresholds, below, found = np.unique(np.sort(scores[positive]), return_index=True, return_counts=True)
    left = np.searchsorted(ranked, thresholds, side="left")
    right = np.searchsorted(ranked, thresholds, side="right")
    return found, found.sum() - below, right - left, len(ranked) - left


def d_prime(mean_auc: float) -> float:
    """Sensitivity index of an AUC: the distance of two unit normals that overlap as much."""
    if math.isnan(mean_auc):
        return NAN
    if mean_auc in (0.0, 1.0):
        return math.copysign(math.inf, mean_auc - 0.5)
    return math.sqrt(2) * NormalDist().inv_cdf(mean_auc)


def precision_recall_f1(hits, guesses, positives) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 from counts of any shape; precision of no guess counts as 0."""
    hits, guesses, positives = (np.asarray(count, dtype=np.float64) for count in (hits, guesses, positives))
    precision = hits / np.maximum(guesses, 1)
    recall = np.divide(hits, positives, out=np.full_like(hits, NAN), where=positives > 0)
    f1 = 2 * hits / np.maximum(guesses + positives, 1)
    return precision, recall, np.where(positives > 0, f1, NAN)


def mean_bce(logits: np.ndarray, positive: np.ndarray) -> float:
    """Mean binary cross-entropy of logits (N,C), stable for large ones, in nats.

    Summed in float64 over a few hundred rows at a time, so that memory stays small.
    """
    total = 0.0
    for start in range(0, len(logits), LOSS_ROWS):
        rows = logits[start : start + LOSS_ROWS].astype(np.float64)
        total += np.sum(np.maximum(rows, 0.0) + np.log1p(np.exp(-np.abs(rows))))
        total -= np.sum(rows[positive[start : start + LOSS_ROWS]])
    return float(total / logits.size)


def mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN when there is none."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else NAN


def check(logits: np.ndarray, labels: np.ndarray, ids: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Logits as floats and labels as bool, or a DataError that names what does not fit."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or logits.shape != labels.shape or 0 in logits.shape:
        raise DataError(
            f"metrics need scores and labels of the same shape (clips, classes), at least one of each; "
            f"found scores {logits.shape} and labels {labels.shape}"
        )
    if logits.dtype not in (np.float32, np.float64):
        logits = logits.astype(np.float32)
    bad = ~np.isfinite(logits).all(1)
    if bad.any():
        raise DataError(
            f"scores of {bad.sum()} of {len(bad)} clips are not finite: {name_clips(bad, ids)}; "
            "look at these clips, or evaluate another checkpoint"
        )
    positive = labels.astype(bool)
    bad = (positive != labels).any(1)
    if bad.any():
        raise DataError(
            f"labels of {bad.sum()} of {len(bad)} clips are not 0 or 1: {name_clips(bad, ids)}; "
            "ranking metrics need hard labels, not mixed or smoothed ones"
        )
    return logits, positive


def name_clips(bad: np.ndarray, ids: Sequence[str] | None, most: int = 5) -> str:
    """The first few clips of a mask, by id where ids are known, else by row."""
    rows = np.flatnonzero(bad)
    names = [ids[row] if ids is not None else f"row {row}" for row in rows[:most]]
    return ", ".join(names) + (", ..." if len(rows) > most else "")
