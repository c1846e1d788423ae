"""The metrics of resampled clips: each clip counts as often as it was drawn, and nothing is sorted again.

A resampling draws as many clips as there are, with replacement. What is a sum over clips, or a ratio of
two, is a matrix product with the clips' weights; rankings are walked once for many resamplings.

Legend: N clips, C classes, R resamplings.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from audiotag.evaluation.calibration import NUM_BINS, bin_of, sigmoid_and_softplus
from audiotag.evaluation.checks import check
from audiotag.evaluation.metrics import judge_clips, precision_recall_f1
from audiotag.evaluation.ranking import d_prime, label_ranking_precision
from audiotag.evaluation.thresholds import Thresholds
from audiotag.evaluation.weightedranking import EXACT_UP_TO, WeightedRanking, ratio

NAN = float("nan")
ROWS_AT_ONCE = 512


class Resampled:
    """Scores and labels made ready for any number of resamplings.

    logits, labels: (N,C), as for `compute_metrics`, and with the same meaning of what follows.
    """

    def __init__(
        self,
        logits: np.ndarray,
        labels: np.ndarray,
        *,
        zero_without_positives: bool = False,
        tuned: Thresholds | None = None,
    ) -> None:
        logits, positive, known = check(logits, labels, None)
        visible = logits if known is None else np.where(known, logits, logits.dtype.type(-np.inf))
        self.zero_without_positives = zero_without_positives
        self.classes = []
        for index, (scores, has) in enumerate(zip(columns_of(logits), columns_of(positive), strict=True)):
            clips = np.arange(len(logits)) if known is None else np.flatnonzero(known[:, index])
            self.classes.append(WeightedRanking(scores[clips], has[clips], clips, len(logits)))
        clips = np.repeat(np.arange(len(logits), dtype=np.int32), logits.shape[1])
        pairs = slice(None) if known is None else known.ravel()
        self.pairs = WeightedRanking(
            logits.ravel()[pairs], positive.ravel()[pairs], clips[pairs], len(logits)
        )
        self.positive = sparse_by_class(positive)
        self.known = None if known is None else columns_of(known).astype(np.float32)
        self.predictions = {"": predicted(visible > 0, positive)}
        if tuned is not None:
            self.predictions["_shared"] = predicted(visible >= np.float64(tuned.shared), positive)
            self.predictions["_by_class"] = predicted(visible >= tuned.by_class, positive)
        self.of_clips = {**sums_of_clips(visible, positive, known), **ratios(visible, positive, known)}
        self.residuals = calibration_residuals(visible, positive)

    def metrics(self, weights: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Metrics of resamplings with weights (N,R): by name (R,), and the AP of each class (C,R)."""
        positives = (self.positive @ weights).astype(np.float64)
        draws = weights.sum(0) if self.known is None else self.known @ weights
        negatives = draws.astype(np.float64) - positives
        by_class = [
            ranking.measure(weights, *counts)
            for ranking, *counts in zip(self.classes, positives, negatives, strict=True)
        ]
        ap, auc, best = np.stack(by_class, axis=1)
        pairs = self.pairs.measure(weights, positives.sum(0), negatives.sum(0))
        mean_auc = class_mean(auc)
        result = {
            "mAP": class_mean(np.nan_to_num(ap, nan=0.0) if self.zero_without_positives else ap),
            "mAUC": mean_auc,
            "d_prime": np.array([d_prime(value) for value in mean_auc]),
            "mAP_micro": pairs.ap,
            "mAUC_micro": pairs.auc,
            "f1_micro_best": pairs.best_f1,
            "f1_macro_best": class_mean(best),
        }
        for where, (hits, guesses) in self.predictions.items():
            of_classes = (hits @ weights, guesses @ weights, positives)
            precision, recall, f1 = precision_recall_f1(*of_classes)
            micro = precision_recall_f1(*(count.sum(0, dtype=np.float64) for count in of_classes))
            if where in ("", "_shared"):
                result["f1_micro" if where == "" else "f1_micro_tuned"] = micro[2]
            if where in ("", "_by_class"):
                result["f1_macro" if where == "" else "f1_macro_tuned"] = class_mean(f1)
            if where == "":
                result["precision_micro"], result["recall_micro"] = micro[:2]
                result["precision_macro"] = class_mean(np.where(positives > 0, precision, NAN))
                result["recall_macro"] = class_mean(recall)
        sums = dict(zip(self.of_clips, np.stack(list(self.of_clips.values())) @ weights, strict=True))
        for name in ("lwlrap", "accuracy", "top1_in_labels", "exact_match", "loss"):
            result[name] = ratio(sums[name], sums[f"{name} of"])
        distance = np.abs(self.residuals @ weights).sum(0)
        result["ece_micro"] = ratio(distance, sums["loss of"])
        return result, ap


def sums_of_clips(
    scores: np.ndarray, positive: np.ndarray, known: np.ndarray | None
) -> dict[str, np.ndarray]:
    """What each clip adds to lwlrap and the loss, and to their denominators: (N,) each."""
    rows, columns = np.nonzero(positive)
    precision = label_ranking_precision(scores, rows, columns)
    loss = np.zeros(len(scores))
    for start in range(0, len(scores), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        loss[part] = sigmoid_and_softplus(scores[part])[1].sum(1)
    loss -= np.bincount(rows, scores[rows, columns].astype(np.float64), len(scores))
    return {
        "lwlrap": np.bincount(rows, precision, len(scores)),
        "lwlrap of": np.bincount(rows, minlength=len(scores)).astype(np.float64),
        "loss": loss,
        "loss of": np.full(len(scores), scores.shape[1]) if known is None else known.sum(1),
    }


def ratios(scores: np.ndarray, positive: np.ndarray, known: np.ndarray | None) -> dict[str, np.ndarray]:
    """Which clips are right and which count, for the metrics that judge a clip as a whole: (N,) each."""
    correct, labelled, counted = judge_clips(scores, positive, known)
    result = {}
    for name, right in correct.items():
        of = labelled if name == "top1_in_labels" else counted
        result[name], result[f"{name} of"] = (right & of).astype(np.float64), of.astype(np.float64)
    return result


def calibration_residuals(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """What each clip adds to the difference of claimed and held in each bin of probability: (15,N)."""
    result = np.zeros((len(scores), NUM_BINS))
    for start in range(0, len(scores), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        probabilities = sigmoid_and_softplus(scores[part])[0]
        size = len(probabilities) * NUM_BINS
        cells = bin_of(probabilities) + NUM_BINS * np.arange(len(probabilities))[:, None]
        # An unknown pair has probability 0 and is no positive: it adds nothing.
        difference = (probabilities - positive[part]).ravel()
        result[part] = np.bincount(cells.ravel(), difference, size).reshape(-1, NUM_BINS)
    return np.ascontiguousarray(result.T)


def predicted(guessed: np.ndarray, positive: np.ndarray) -> tuple[csr_matrix, csr_matrix]:
    """Which clips are hits and which guesses of each class: (C,N) each."""
    return sparse_by_class(guessed & positive), sparse_by_class(guessed)


def sparse_by_class(pairs: np.ndarray) -> csr_matrix:
    """A sparse (C,N) of ones from a bool (N,C)."""
    rows, columns = np.nonzero(pairs)
    ones = np.ones(len(rows), np.float32 if len(rows) < EXACT_UP_TO else np.float64)
    return csr_matrix((ones, (columns, rows)), shape=pairs.shape[::-1])


def columns_of(pairs: np.ndarray) -> np.ndarray:
    """(C,N), each class in one piece."""
    return np.ascontiguousarray(pairs.T)


def class_mean(values: np.ndarray) -> np.ndarray:
    """Mean over classes (C,R) of what is not NaN; NaN when nothing is."""
    there = ~np.isnan(values)
    return ratio(np.where(there, values, 0.0).sum(0), there.sum(0))
