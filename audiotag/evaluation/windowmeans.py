"""One row of logits for a clip from those of its windows, taken in as they come.

A mean is one of
    logits     the mean of the windows' logits
    max        the largest of each class
    sigmoid    the logits of the mean of the windows' probabilities, each class for itself
    softmax    the same of probabilities over all classes, of which one is right

Sums are kept in float64, and only those, however many windows a clip has. The one window of a clip keeps its
logits as they are.

Shapes: B windows of a batch, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

WindowMean = Literal["logits", "max", "sigmoid", "softmax"]

# How the summands of each mean are added up.
SUMS = {
    "logits": (np.add,),
    "max": (np.maximum,),
    "sigmoid": (np.logaddexp, np.logaddexp),
    "softmax": (np.logaddexp,),
}


class WindowMerger:
    """Makes one row of the rows that belong to a clip; they come one after the other, in any batches."""

    def __init__(self) -> None:
        self._sums: list[np.ndarray] = []  # over the windows so far of a clip that has more to come
        self._missing = 0

    def merge(self, batch: dict[str, Any], logits: np.ndarray) -> tuple[list[int], np.ndarray]:
        """The rows (M) of a batch that are clips' last windows, and the logits (M,C) of these clips, float32.

        Args:
            batch: of `WindowDataset`.
            logits: (B,C) of its windows, float32.
        """
        positions, counts = batch["positions"].numpy(), batch["windows"].tolist()
        bounds = [0, *(np.flatnonzero(np.diff(positions)) + 1).tolist(), len(positions)]
        last, merged = [], [np.zeros((0, logits.shape[1]), np.float32)]
        for first, end in pairwise(bounds):
            with np.errstate(invalid="ignore"):  # `check_finite` has better words for it
                clip = self._add(logits[first:end], counts[first], batch["window_mean"])
            if clip is not None:
                last.append(end - 1)
                merged.append(clip[None])
        return last, np.concatenate(merged)

    def _add(self, logits: np.ndarray, count: int, mean: WindowMean) -> np.ndarray | None:
        """Take in some of the `count` windows of a clip; its logits (C,) when no more are to come."""
        if count == 1:
            return logits[0]
        self._missing = (self._missing or count) - len(logits)
        parts = zip(SUMS[mean], summands(logits, mean), strict=True)
        sums = [add.reduce(part, axis=0) for add, part in parts]
        if self._sums:
            sums = [add(*pair) for add, *pair in zip(SUMS[mean], self._sums, sums, strict=True)]
        self._sums = sums if self._missing else []
        return None if self._missing else clip_logits(sums, count, mean)


def summands(logits: np.ndarray, mean: WindowMean) -> Sequence[np.ndarray]:
    """What is added up over windows with logits (B,C), in float64.

    Probabilities are kept as logarithms, of a class and of its absence, so that nothing is lost near 0 and 1.
    """
    # What overflowed in one window must not vanish in the mean with others.
    logits = np.where(np.isfinite(logits), logits, np.nan).astype(np.float64)
    if mean == "sigmoid":
        return -np.logaddexp(0.0, -logits), -np.logaddexp(0.0, logits)
    if mean == "softmax":
        return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True),)
    return (logits,)


def clip_logits(sums: Sequence[np.ndarray], count: int, mean: WindowMean) -> np.ndarray:
    """The logits (C,) of a clip from the sums over its windows, float32."""
    if mean == "logits":
        result = sums[0] / count
    elif mean == "max":
        result = sums[0]
    elif mean == "sigmoid":
        result = sums[0] - sums[1]
    else:
        result = sums[0] - math.log(count)
    return result.astype(np.float32)
