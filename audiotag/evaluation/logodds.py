"""Scores of models that were trained with cross-entropy over the classes, of which one is right.

Everything behind the scores takes the sigmoid of a score for the probability of a class; of log odds the
sigmoid is the softmax.

Shapes: N clips, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def log_odds(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """log(p / (1 - p)) of the softmax p of logits (N,C), without loss where p is near 0 or 1."""
    if logits.shape[1] < 2 or len(logits) == 0:
        return logits.astype(np.float32)
    logits = logits.astype(np.float64)
    rows, best = np.arange(len(logits)), logits.argmax(axis=1)
    # 1 - p is exact enough but for the likeliest class, where it is the sum of the others.
    others = logits.copy()
    others[rows, best] = -np.inf
    with np.errstate(invalid="ignore"):  # `check_finite` has better words for it
        of_others = np.logaddexp.reduce(others, axis=1)
        highest = logits[rows, best]
        log_p = logits - np.logaddexp(highest, of_others)[:, None]
        likeliest = logits == highest[:, None]  # several where they are equal, which they are to stay
        log_p[likeliest] = -1.0  # replaced below; log1p(-1) would warn
        result = log_p - np.log1p(-np.exp(log_p))
        result = np.where(likeliest, (highest - of_others)[:, None], result)
    return result.astype(np.float32)
