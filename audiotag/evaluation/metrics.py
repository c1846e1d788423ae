"""All metrics of a set of scores: ranking, thresholds, calibration, accuracies, loss.

Legend: N clips, C classes. `macro` is the unweighted mean over classes, `micro` takes all clip-class pairs
as one. Each class is sorted once, by value alone; all that depends on the order is looked up in that.
`metricnames.py` says what each metric is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from audiotag.evaluation.calibration import NUM_BINS, bin_sums, calibration_error, sigmoid_and_softplus
from audiotag.evaluation.checks import check
from audiotag.evaluation.ranking import (
    average_precision,
    d_prime,
    find_steps,
    label_ranking_precision,
    roc_area,
)
from audiotag.evaluation.thresholds import Thresholds, pick_threshold

NAN = float("nan")


@dataclass(frozen=True)
class Metrics:
    """Metrics of one evaluation: an array of length C per kind, and the summary over classes.

    AP, recall, best F1 and threshold of a class without positives, and AUC of a class without positives or
    without negatives, are NaN. In the summary, values that do not exist or are infinite (the d' of a
    perfect ranking) are None, so that it can be written as JSON.

    best_f1, thresholds: each class's best F1 over all thresholds, and the logit that gives it;
    shared_threshold: the logit of the best micro F1. bins: (3,15), pairs, sum of probabilities and
    positives in bins of probability.
    """

    ap: np.ndarray
    auc: np.ndarray
    f1: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    best_f1: np.ndarray
    thresholds: np.ndarray
    ece: np.ndarray
    positives: np.ndarray
    shared_threshold: float
    bins: np.ndarray
    summary: dict[str, float | int | None]

    @property
    def classes_without_positives(self) -> list[int]:
        """Indices of the classes that are left out of the means."""
        return np.flatnonzero(self.positives == 0).tolist()

    def tuned_thresholds(self, tuned_on: str) -> Thresholds:
        """The thresholds that these clips, of the split `tuned_on`, give for others."""
        shared = 0.0 if math.isnan(self.shared_threshold) else self.shared_threshold
        return Thresholds(tuned_on, shared, np.where(np.isnan(self.thresholds), shared, self.thresholds))


def compute_metrics(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    ids: Sequence[str] | None = None,
    zero_without_positives: bool = False,
    tuned: Thresholds | None = None,
) -> Metrics:
    """All metrics of a set of clips.

    logits: (N,C) floats, before the sigmoid: loss, calibration and thresholds need them so, the ranking
        would be the same after it.
    labels: (N,C) multi-hot, 0 or 1; NaN where it is not known whether the clip has the class. Such pairs
        are left out of everything.
    ids: N clip ids, for error messages.
    zero_without_positives: count classes without positives as AP 0 in mAP instead of leaving them out.
    tuned: thresholds from other clips; adds `f1_micro_tuned` and `f1_macro_tuned`.
    """
    logits, positive, known = check(logits, labels, ids)
    # An unknown class ranks below all that is known, where it is never counted.
    visible = logits if known is None else np.where(known, logits, logits.dtype.type(-np.inf))
    num_known = np.full(logits.shape[1], len(logits)) if known is None else known.sum(0)
    rows, columns = np.nonzero(positive)
    positives = np.bincount(columns, minlength=logits.shape[1])
    of_classes, bins, losses = measure_classes(visible, positive, num_known)
    ap, auc, best, thresholds = of_classes.T
    micro_ap, micro_auc, micro_best, shared = measure_ranking(
        np.sort(visible, axis=None)[int(visible.size - num_known.sum()) :], logits[rows, columns]
    )
    at_half = f1_counts(visible > 0, rows, columns)
    precision, recall, f1 = precision_recall_f1(*at_half)
    micro = [float(value) for value in precision_recall_f1(*(count.sum() for count in at_half))]
    ece = calibration_error(bins)
    summary = {
        "mAP": mean(np.nan_to_num(ap, nan=0.0) if zero_without_positives else ap),
        "mAUC": mean(auc),
        "d_prime": d_prime(mean(auc)),
        "mAP_micro": micro_ap,
        "mAUC_micro": micro_auc,
        "lwlrap": mean(label_ranking_precision(visible, rows, columns)),
        "f1_micro": micro[2],
        "f1_macro": mean(f1),
        "precision_micro": micro[0],
        "precision_macro": mean(precision[positives > 0]),
        "recall_micro": micro[1],
        "recall_macro": mean(recall),
        "f1_micro_best": micro_best,
        "f1_macro_best": mean(best),
        "ece_micro": float(calibration_error(bins.sum(0))),
        "ece_macro": mean(ece),
        **accuracies(visible, positive, known),
        "loss": losses / num_known.sum() if num_known.any() else NAN,
        "espnet_mAP": 100 * float(np.nan_to_num(ap, nan=0.0).mean()),
        "espnet_mean_auc": 100 * float(np.nan_to_num(auc, nan=0.0).mean()),
    }
    summary["espnet_mean_acc"] = 100 * summary["accuracy"]
    summary["distil_f1"] = summary["f1_micro"]
    summary["distil_roc_auc"] = roc_area_of_predictions(*at_half, num_known)
    summary["distil_accuracy"] = summary["exact_match"]
    summary["distil_mAP"] = summary["mAP_micro"]
    if tuned is not None:
        counts = f1_counts(visible >= np.float64(tuned.shared), rows, columns)
        summary["f1_micro_tuned"] = float(precision_recall_f1(*(count.sum() for count in counts))[2])
        counts = f1_counts(visible >= tuned.by_class, rows, columns)
        summary["f1_macro_tuned"] = mean(precision_recall_f1(*counts)[2])
    finite = {name: float(value) if math.isfinite(value) else None for name, value in summary.items()}
    counts = {
        "num_clips": len(logits),
        "num_clips_without_labels": len(logits) - len(np.unique(rows)),
        "num_classes": len(positives),
        "num_classes_without_positives": int(np.sum(positives == 0)),
        "num_classes_without_negatives": int(np.sum(positives == num_known)),
        "num_unknown_pairs": int(visible.size - num_known.sum()),
    }
    return Metrics(
        ap=ap,
        auc=auc,
        f1=f1,
        precision=precision,
        recall=recall,
        best_f1=best,
        thresholds=thresholds,
        ece=ece,
        positives=positives,
        shared_threshold=shared,
        bins=bins.sum(0),
        summary={**finite, **counts},
    )


def measure_classes(
    scores: np.ndarray, positive: np.ndarray, num_known: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """What needs every score of a class: (C,4) of `measure_ranking`, bins (C,3,15), and the sum of losses."""
    by_class, positive = scores.T.copy(), positive.T.copy()  # the scores are sorted in place
    of_classes, bins = np.full((len(by_class), 4), NAN), np.zeros((len(by_class), 3, NUM_BINS))
    losses = 0.0
    for index, (column, has) in enumerate(zip(by_class, positive, strict=True)):
        of_positives = column[has]
        column.sort()
        ranked = column[len(column) - num_known[index] :]
        of_classes[index] = measure_ranking(ranked, of_positives)
        probabilities, of_absent = sigmoid_and_softplus(ranked)
        bins[index] = bin_sums(probabilities, sigmoid_and_softplus(of_positives)[0])
        losses += of_absent.sum() - of_positives.sum(dtype=np.float64)
    return of_classes, bins, float(losses)


def measure_ranking(ranked: np.ndarray, of_positives: np.ndarray) -> tuple[float, float, float, float]:
    """AP, AUC, best F1 and its threshold of scores in ascending order and of the positives among them."""
    steps = find_steps(ranked, of_positives)
    _, found, above, tied, not_below = steps
    auc = roc_area(found, above, tied, not_below, len(ranked) - len(of_positives))
    return (
        float(average_precision(found, above, not_below)),
        float(auc),
        *pick_threshold(ranked, steps),
    )


def f1_counts(
    predicted: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, guesses and positives of each class, from predictions (N,C) and the places of the positives."""
    num_classes = predicted.shape[1]
    hits = np.bincount(columns[predicted[rows, columns]], minlength=num_classes)
    return hits, np.count_nonzero(predicted, axis=0), np.bincount(columns, minlength=num_classes)


def precision_recall_f1(hits, guesses, positives) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 from counts of any shape; precision of no guess counts as 0."""
    hits, guesses, positives = (np.asarray(count, dtype=np.float64) for count in (hits, guesses, positives))
    precision = hits / np.maximum(guesses, 1)
    recall = np.divide(hits, positives, out=np.full_like(hits, NAN), where=positives > 0)
    f1 = 2 * hits / np.maximum(guesses + positives, 1)
    return precision, recall, np.where(positives > 0, f1, NAN)


def roc_area_of_predictions(
    hits: np.ndarray, guesses: np.ndarray, positives: np.ndarray, num_known: np.ndarray
) -> float:
    """Area under the ROC curve of 0/1 predictions, all pairs as one: the mean of recall and specificity."""
    total, negatives = positives.sum(), (num_known - positives).sum()
    if not total or not negatives:
        return NAN
    return float(hits.sum() / total + 1 - (guesses - hits).sum() / negatives) / 2


def accuracies(scores: np.ndarray, positive: np.ndarray, known: np.ndarray | None) -> dict[str, float]:
    """What is right or wrong of a clip as a whole; clips of which nothing is known are left out."""
    correct, labelled, counted = judge_clips(scores, positive, known)
    return {
        "accuracy": mean(correct["accuracy"][counted]),
        "top1_in_labels": mean(correct["top1_in_labels"][labelled]),
        "exact_match": mean(correct["exact_match"][counted]),
    }


def judge_clips(
    scores: np.ndarray, positive: np.ndarray, known: np.ndarray | None
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """By metric which clips are right, (N,) bool each; which have labels; of which anything is known.

    For `accuracy` the first label of a clip without any is the first class, as the argmax of its zeros is
    in the tables of the papers.
    """
    top = scores.argmax(1)
    correct = {
        "accuracy": top == positive.argmax(1),
        "top1_in_labels": positive[np.arange(len(top)), top],
        "exact_match": ((scores > 0) == positive).all(1),
    }
    counted = np.ones(len(top), bool) if known is None else known.any(1)
    return correct, positive.any(1), counted


def mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN when there is none."""
    kept = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    return float(kept.mean()) if kept.size else NAN
