"""Configuration of losses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from audiotag.configbase import Fraction, NonNegative, Section


class LossBase(Section):
    """What all losses share."""

    label_smoothing: Fraction = 0.0
    """Part of each target that becomes no knowledge: 0.5 for each class (bce, focal), 1 / classes (ce)."""
    class_weights: Literal["none", "balanced"] | str = "none"
    """Weight of each class, scaled to mean 1: `none`, `balanced` (by the inverse of its training clips, as
    stage 4 counts them), or a CSV file with the columns mid,weight and a row for each class."""
    reduction: Literal["mean", "sum"] = "mean"
    """What is trained: the `mean` over clips (and classes: bce, focal), or the `sum` over the clips and
    classes of a batch (icefall), whose gradient grows with the batch. Gradients of processes and of
    accumulated batches are averaged in either case, and log and curves show the mean."""


class BceLoss(LossBase):
    """Binary cross-entropy of each class, for clips with any number of labels."""

    name: Literal["bce"] = "bce"
    """Which loss."""


class CeLoss(LossBase):
    """Cross-entropy over the classes, for clips with one label; mixed labels are soft targets, and clips
    without a label contribute nothing."""

    name: Literal["ce"] = "ce"
    """Which loss."""


class FocalLoss(LossBase):
    """Binary cross-entropy that easy clips contribute little to."""

    name: Literal["focal"] = "focal"
    """Which loss."""
    gamma: NonNegative = 2.0
    """How little easy clips count: the power of the probability of being wrong, by which each term is
    multiplied; 0 is bce."""
    alpha: Fraction | None = None
    """Weight of positives, 1 - alpha that of negatives; null weights both with 1."""


Loss = Annotated[BceLoss | CeLoss | FocalLoss, Field(discriminator="name")]
