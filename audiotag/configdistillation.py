"""Configuration of distillation: teachers whose scores a model learns beside the labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from audiotag.configbase import NonNegative, Positive, Section, Share


class Distillation(Section):
    """Teachers whose scores the model learns beside the labels."""

    teachers: Annotated[list[str], Field(min_length=1)]
    """Each the folder of a run (the weights that its config chooses), or of a cross-validation (each fold
    takes its own run), a file or folder of a model in any format that can be imported, a name on the Hugging
    Face hub, or a variable of db.sh, written $AST_CHECKPOINT. Several are one: the mean of their
    probabilities."""
    weights: list[Positive] | None = None
    """Weight of each teacher in the mean; null weights all alike."""
    mode: Literal["stored", "online"] = "stored"
    """`stored`: the teachers hear every clip once, before training, whole and unchanged; `online`: they hear
    in every epoch what the student hears, augmented as it is."""
    alpha: Share = 0.5
    """Share of the labels' loss; the teachers' has the rest."""
    temperature: Positive = 2.0
    """What all logits are divided by in the teachers' loss, which is multiplied by its square; above 1 it
    softens the targets."""
    form: Literal["bce", "softmax"] = "bce"
    """The teachers' loss: binary cross-entropy of each class, or `softmax`, the Kullback-Leibler divergence
    over the classes of each clip."""
    feature_weight: NonNegative = 0.0
    """Weight of a third loss, the squared distance between the embeddings of the student, mapped linearly
    where they have another width, and of the teacher; with mode online and one teacher. 0 does without."""

    @model_validator(mode="after")
    def _each_teacher_has_a_weight(self) -> Distillation:
        if self.weights is not None and len(self.weights) != len(self.teachers):
            raise ValueError(f"weights has {len(self.weights)} numbers for {len(self.teachers)} teachers")
        return self

    @model_validator(mode="after")
    def _embeddings_are_at_hand(self) -> Distillation:
        if self.feature_weight and self.mode == "stored":
            raise ValueError(
                "feature_weight compares embeddings, which are not stored: set mode to online, or "
                "feature_weight to 0"
            )
        if self.feature_weight and len(self.teachers) > 1:
            raise ValueError(
                f"feature_weight compares embeddings with those of one teacher, found {len(self.teachers)}"
            )
        return self

    @model_validator(mode="after")
    def _teachers_have_a_part(self) -> Distillation:
        if self.alpha == 1.0 and not self.feature_weight:
            raise ValueError("with alpha 1 and feature_weight 0 nothing is learnt from the teachers")
        return self
