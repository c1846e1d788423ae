"""Losses of logits against targets that may be soft (mixed, smoothed) or unknown.

A target of NaN says that nobody knows whether the clip has the class. Such an entry contributes nothing and
its logit gets a gradient of exactly 0, while the mean still counts it: so two processes with a batch each
have the loss of one process with both batches.

Everything is computed in float32 at least, whatever precision the logits have.

Shapes: B clips, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from audiotag.labels import LabelTable
from audiotag.lossweights import class_weights


class Loss(nn.Module):
    """What all losses share: the weights of the classes and how far targets are smoothed.

    Args:
        weights: (C,) one for each class.
        label_smoothing: part of each target that is replaced by no knowledge.
        reduction: `mean`, or the `sum` of all that the mean is taken of.
    """

    def __init__(self, weights: Tensor, label_smoothing: float = 0.0, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction
        self.register_buffer("weights", weights.to(torch.float32))
        self.label_smoothing = label_smoothing
        # Of a loss with several parts: what the model is asked for beside logits, and the last one's parts.
        self.asks: dict[str, Any] = {}
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar, of logits (B,C) against targets (B,C) in [0, 1] or NaN."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = targets.to(logits.dtype)
        known = ~targets.isnan()
        # Unknown entries are taken out on both sides: what is only multiplied by 0 in the end still sends
        # back 0 times infinity.
        terms = self.terms(logits.where(known, 0.0), targets.where(known, 0.0), known)
        return self.reduce((self.weights * terms).where(known, 0.0))

    def terms(self, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        """The loss (B,C) of each entry before it is weighted; what unknown entries hold does not matter."""
        raise NotImplementedError

    def reduce(self, terms: Tensor) -> Tensor:
        """Weighted terms (B,C) to the loss: the mean, or the sum, over clips and classes."""
        return terms.sum() if self.reduction == "sum" else terms.mean()

    def as_mean(self, loss: Tensor, targets: Tensor) -> Tensor:
        """A loss of these targets as the mean would be, to be compared with others whatever the reduction."""
        return loss / self.num_terms(targets) if self.reduction == "sum" else loss

    def num_terms(self, targets: Tensor) -> int:
        """By what the mean divides the sum."""
        return targets.numel()

    def smoothed(self, targets: Tensor) -> Tensor:
        """Targets of separate classes, moved towards 0.5."""
        return targets + self.label_smoothing * (0.5 - targets)


class BinaryCrossEntropy(Loss):
    """Binary cross-entropy of each class, mean over clips and classes."""

    def terms(self, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, self.smoothed(targets), reduction="none")


class Focal(Loss):
    """Focal loss of each class, mean over clips and classes (Lin et al., ICCV 2017).

    A positive with probability p costs -(1-p)^gamma log p, a negative -p^gamma log(1-p). A soft target t is
    both, t times the one and 1 - t times the other, as binary cross-entropy has it too: that is gamma 0.

    Args:
        weights, label_smoothing, reduction: as in `Loss`.
        gamma: how little easy entries count.
        alpha: weight of positives, 1 - alpha that of negatives; None for 1 and 1.
    """

    def __init__(
        self,
        weights: Tensor,
        label_smoothing: float = 0.0,
        gamma: float = 2.0,
        alpha: float | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weights, label_smoothing, reduction)
        self.gamma = gamma
        self.of_positives, self.of_negatives = (1.0, 1.0) if alpha is None else (alpha, 1.0 - alpha)

    def terms(self, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        targets = self.smoothed(targets)
        # Powers of probabilities by their logarithms, which stay exact where a probability is rounded to 0
        # or 1; the power itself would have an infinite slope there for gamma below 1.
        log_p, log_q = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        positives = -(self.gamma * log_q).exp() * log_p
        negatives = -(self.gamma * log_p).exp() * log_q
        return self.of_positives * targets * positives + self.of_negatives * (1.0 - targets) * negatives


class CrossEntropy(Loss):
    """Cross-entropy over the classes, mean over clips.

    It is linear in the targets: those of a mixture cost what its parts cost by their shares, a clip without
    labels costs nothing, and each of several labels counts. Unknown classes take no part in the softmax of
    their clip. The mean is over clips, not over weights of classes, as torch has it for soft targets.
    """

    def terms(self, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        # The lowest number in place of minus infinity: a clip of which nothing is known has no NaN either.
        lowest = torch.finfo(logits.dtype).min
        log_p = logits.masked_fill(~known, lowest).log_softmax(dim=1)
        num_known = known.sum(dim=1, keepdim=True).clamp(min=1)
        even = targets.sum(dim=1, keepdim=True) / num_known
        return -(targets + self.label_smoothing * (even - targets)) * log_p

    def reduce(self, terms: Tensor) -> Tensor:
        """Weighted terms (B,C) to the loss: summed over classes, mean or sum over clips."""
        return super().reduce(terms.sum(dim=1))

    def num_terms(self, targets: Tensor) -> int:
        return len(targets)


LOSSES: dict[str, Callable[..., Loss]] = {
    "bce": BinaryCrossEntropy,
    "ce": CrossEntropy,
    "focal": Focal,
}


def build_loss(
    section: Mapping[str, Any], labels: LabelTable, class_counts: np.ndarray | None = None
) -> Loss:
    """The loss of a configuration's `loss` section.

    Args:
        section: name, label_smoothing, class_weights and what the loss itself has.
        labels: the classes.
        class_counts: (C,) training clips of each class, for `class_weights: balanced`.
    """
    settings = dict(section)
    weights = class_weights(settings.pop("class_weights"), labels, class_counts)
    return LOSSES[settings.pop("name")](torch.from_numpy(weights), **settings)
