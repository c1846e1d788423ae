"""How far probabilities are from shares: the bins of a reliability diagram and the calibration error."""

from __future__ import annotations

import numpy as np

NUM_BINS = 15
EDGES = np.linspace(0.0, 1.0, NUM_BINS + 1)[1:-1]  # a probability on an edge belongs to the bin below


def sigmoid_and_softplus(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and the cross-entropy of each if its class is absent, in float64, stable for any size.

    The cross-entropy of a class that is present is the latter less the logit.
    """
    logits = logits.astype(np.float64)
    small = np.exp(-np.abs(logits))
    probabilities = np.where(logits < 0, small, 1.0) / (1.0 + small)
    return probabilities, np.maximum(logits, 0.0) + np.log1p(small)


def bin_sums(ascending: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Pairs, sum of probabilities and positives in each bin: (3,15).

    ascending: (N,) probabilities in order; positive: (P,), those of the positives in any order.
    """
    bounds = np.concatenate([[0], np.searchsorted(ascending, EDGES, side="right"), [len(ascending)]])
    running = np.concatenate([[0.0], np.cumsum(ascending)])
    positives = np.bincount(bin_of(positive), minlength=NUM_BINS)
    return np.stack([np.diff(bounds), np.diff(running[bounds]), positives])


def bin_of(probabilities: np.ndarray) -> np.ndarray:
    """The bin of each probability."""
    return np.searchsorted(EDGES, probabilities, side="left")


def calibration_error(bins: np.ndarray) -> np.ndarray:
    """Expected calibration error of bins (...,3,15): what a bin claims against what it holds.

    The mean over pairs of the distance between a bin's mean probability and its share of positives; NaN
    where there are no pairs.
    """
    pairs, claimed, held = np.moveaxis(bins, -2, 0)
    total, distance = pairs.sum(-1), np.abs(claimed - held).sum(-1)
    return np.divide(distance, total, out=np.full(np.shape(total), np.nan), where=total > 0)
