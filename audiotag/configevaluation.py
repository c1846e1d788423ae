"""Configuration of evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from audiotag.configbase import Count, NonNegativeCount, Positive, Section


class Evaluation(Section):
    """Which weights are evaluated, on what."""

    splits: Annotated[list[Literal["valid", "eval"]], Field(min_length=1)] = ["eval"]
    """Splits that stage 6 evaluates."""
    best: bool = False
    """Take the epoch with the best validation metric in place of the last."""
    epoch: Count | None = None
    """Take this epoch; null takes the last one."""
    avg: Count = 1
    """Average the weights of this many epochs, ending at the chosen one."""
    best_k: Count | None = None
    """Average the weights of this many checkpoints with the best validation metric."""
    checkpoints: list[str] | None = None
    """Average the weights of these checkpoint files, relative to the experiment folder."""
    between: tuple[str, str] | None = None
    """Mean of the weights over all updates between two checkpoint files (the first excluded), from their
    running averages."""
    weights: Literal["model", "ema", "running_average", "swa"] = "model"
    """Which weights are taken from the checkpoints: the trained ones or an average that training kept."""
    amp: Literal["off", "fp16", "bf16"] = "off"
    """Precision of the forward pass; scores are float32 in any case."""
    window_s: Positive | None = None
    """Longer clips are cut into windows of this length; null takes clips whole."""
    hop_s: Positive | None = None
    """Seconds from one window to the next; null takes half of window_s."""
    window_mean: Literal["logits", "probabilities", "max"] = "probabilities"
    """How the windows of a clip become one score."""
    batch_size: Count = 32
    """Clips of a batch."""
    bootstrap: NonNegativeCount = 1000
    """Resamplings for the confidence intervals; 0 computes none."""
    zero_without_positives: bool = False
    """Count classes without positives as AP 0 in the means (old papers do); otherwise leave them out."""

    @model_validator(mode="after")
    def _one_choice_of_epoch(self) -> Evaluation:
        if self.best and self.epoch is not None:
            raise ValueError("best and epoch exclude each other")
        return self
