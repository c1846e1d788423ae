"""Many models' scores of the same clips as one: the weighted mean of their probabilities, or of their logits.

Probabilities are summed as logarithms, of each class and of its absence, so that nothing is lost near 0 and
1; what comes out are log odds, whose sigmoid is the mean. Scores of a model that was trained with
cross-entropy over the classes are log odds of its softmax, so that the mean is one of softmaxes there.

Shapes: M members, N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Combine = Literal["probabilities", "logits"]


class Mixture:
    """The weighted mean of the scores that were added so far; weights need not have a sum of 1."""

    def __init__(self, combine: Combine) -> None:
        self.combine = combine
        self._total = 0.0
        # Of probabilities: the logarithms of the sums for presence and absence; of logits: their sum.
        self._sums: tuple[NDArray, ...] = ()

    def add(self, logits: NDArray, weight: float = 1.0) -> None:
        """Add a member's logits (N,C); with weight 0 they leave no trace."""
        if weight == 0.0:
            return
        logits = logits.astype(np.float64)
        if self.combine == "logits":
            parts, add = (weight * logits,), np.add
        else:
            log_present, log_absent = -np.logaddexp(0.0, -logits), -np.logaddexp(0.0, logits)
            parts, add = (np.log(weight) + log_present, np.log(weight) + log_absent), np.logaddexp
        self._sums = tuple(map(add, self._sums, parts)) if self._sums else parts
        self._total += weight

    def logits(self) -> NDArray[np.float32]:
        """The mean as logits (N,C)."""
        if self.combine == "logits":
            return (self._sums[0] / self._total).astype(np.float32)
        # The sum of the weights is in both logarithms.
        return (self._sums[0] - self._sums[1]).astype(np.float32)


def mix(
    members: Sequence[NDArray], weights: Sequence[float], combine: Combine = "probabilities"
) -> NDArray[np.float32]:
    """Logits (N,C) of the weighted mean of members' logits, (N,C) each."""
    mixture = Mixture(combine)
    for logits, weight in zip(members, weights, strict=True):
        mixture.add(logits, weight)
    return mixture.logits()
