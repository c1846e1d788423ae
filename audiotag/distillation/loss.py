"""The loss of a student: a weighted sum of what the labels, the teacher's scores and its embeddings say.

Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015; for clips with several labels
each class has a softened probability of its own.

Shapes: B clips, C classes, D width of the student, E width of the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiotag.losses import Loss

PROJECTION = "projection.weight"


class DistillationLoss(nn.Module):
    """alpha L + (1 - alpha) T^2 H + w F of a student's output.

    L is the labels' loss. H is the mean binary cross-entropy, or the Kullback-Leibler divergence by the clip,
    between the teacher's soft targets and the student's logits over the temperature T. F is the mean squared
    distance of the embeddings, the student's mapped linearly where they have another width; the map is
    trained with the student, and of no use after it.

    Where the labels' loss is a sum, all is multiplied by what its mean divides by, so that the shares stay.

    Args:
        label_loss: of logits (B,C) and labels (B,C).
        alpha: share of the labels' loss.
        temperature: T; the soft targets have been made with the same.
        form: `bce` or `softmax`.
        feature_weight: w; 0 leaves embeddings alone.
        widths: D and E; None without embeddings.
    """

    def __init__(
        self,
        label_loss: Loss,
        *,
        alpha: float,
        temperature: float,
        form: str,
        feature_weight: float = 0.0,
        widths: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.label_loss = label_loss
        self.alpha = alpha
        self.temperature = temperature
        self.form = form
        self.feature_weight = feature_weight
        # What the model is asked for beside logits.
        self.asks = {"pooled": True} if feature_weight else {}
        self.projection = nn.Identity()
        if widths and widths[0] != widths[1]:
            self.projection = nn.Linear(*widths)
        self.parts: dict[str, Tensor] = {}

    def forward(self, output: Tensor | tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            output: logits (B,C), with `feature_weight` also embeddings (B,D).
            targets: (B,2C) labels and soft targets, or (B,2C+E) with the teacher's embeddings behind them.
        """
        logits, embeddings = output if self.feature_weight else (output, None)
        count = logits.shape[1]
        labels, soft, features = targets.tensor_split((count, 2 * count), dim=1)
        of_labels = self.label_loss(logits, labels)
        # Of what the labels' sum and mean differ by, all parts get the same.
        scale = self.label_loss.num_terms(labels) if self.label_loss.reduction == "sum" else 1
        parts = {"label_loss": of_labels / scale, "teacher_loss": self.of_teacher(logits, soft)}
        loss = self.alpha * of_labels + scale * (1 - self.alpha) * parts["teacher_loss"]
        if self.feature_weight:
            mapped = self.projection(embeddings.float())
            parts["feature_loss"] = functional.mse_loss(mapped, features.float())
            loss = loss + scale * self.feature_weight * parts["feature_loss"]
        self.parts = {name: value.detach() for name, value in parts.items()}
        return loss

    def of_teacher(self, logits: Tensor, soft: Tensor) -> Tensor:
        """T^2 H of logits (B,C) and soft targets (B,C), in float32 at least."""
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature
        soft = soft.to(scores.dtype)
        if self.form == "bce":
            distance = functional.binary_cross_entropy_with_logits(scores, soft)
        else:
            distance = functional.kl_div(scores.log_softmax(dim=1), soft, reduction="batchmean")
        return self.temperature**2 * distance

    def as_mean(self, loss: Tensor, targets: Tensor) -> Tensor:
        """A loss of these targets as the mean would be."""
        labels = targets[:, : len(self.label_loss.weights)]
        return self.label_loss.as_mean(loss, labels)


def build_distillation_loss(
    section: Mapping[str, Any], label_loss: Loss, widths: tuple[int, int] | None = None
) -> DistillationLoss:
    """The loss of a configuration's `distillation` section.

    Args:
        section: the section.
        label_loss: that of its `loss` section.
        widths: of the embeddings of student and teacher; None where they play no part.
    """
    keys = ("alpha", "temperature", "form", "feature_weight")
    return DistillationLoss(label_loss, **{key: section[key] for key in keys}, widths=widths)


def stored_widths(state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """The widths that a loss had whose state dict this is; None where embeddings were not mapped."""
    if PROJECTION not in state:
        return None
    teacher, student = state[PROJECTION].shape
    return student, teacher
