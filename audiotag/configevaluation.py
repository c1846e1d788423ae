"""Configuration of evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from audiotag.configbase import Count, NonNegativeCount, Positive, Section


class WeightChoice(Section):
    """Which weights of a run are taken: those of one checkpoint, or a mean of several."""

    best: bool = False
    """Take the checkpoint with the best validation metric in place of the last epoch's."""
    epoch: Count | None = None
    """Take this epoch; null takes the last one."""
    avg: Count = 1
    """Average the weights of this many epochs, ending at the chosen one."""
    best_k: Count | None = None
    """Average the weights of this many checkpoints with the best validation metric."""
    checkpoints: Annotated[list[str], Field(min_length=1)] | None = None
    """Average the weights of these checkpoint files, relative to the experiment folder; all else comes from
    the last of them."""
    between: tuple[str, str] | None = None
    """Mean of the weights over all updates between two checkpoint files (the first excluded), from their
    running averages."""
    use_averaged_model: bool = False
    """Mean of the weights over all updates after epoch E - avg up to the chosen epoch E, from their running
    averages, in place of the mean of the checkpoints (icefall's use-averaged-model)."""
    weights: Literal["model", "ema", "running_average", "swa"] | None = None
    """Which weights are taken from the checkpoints: the trained ones or an average that training kept; null
    takes those that validation measured (`training.validate_weights` of the run)."""

    @model_validator(mode="after")
    def _one_choice(self) -> WeightChoice:
        given = {
            "best": self.best,
            "epoch": self.epoch,
            "best_k": self.best_k,
            "checkpoints": self.checkpoints,
            "between": self.between,
        }
        names = [name for name, value in given.items() if value]
        if len(names) > 1:
            raise ValueError(f"{names[0]} and {names[1]} exclude each other")
        if self.avg > 1 and names and names[0] in ("best_k", "checkpoints", "between"):
            raise ValueError(
                f"avg {self.avg} averages epochs, and {names[0]} chooses otherwise: set avg to 1"
            )
        if self.use_averaged_model:
            if names and names[0] in ("best_k", "checkpoints", "between"):
                raise ValueError(f"use_averaged_model and {names[0]} exclude each other")
            if self.weights not in (None, "model", "running_average"):
                raise ValueError(
                    "use_averaged_model is computed from running averages: leave weights at null, not "
                    f"{self.weights}"
                )
            if self.epoch is not None and self.epoch <= self.avg:
                raise ValueError(
                    f"use_averaged_model takes the mean from the end of epoch {self.epoch} - {self.avg} on, "
                    "which is none: set avg to less than epoch (weights running_average alone is the mean "
                    "from the beginning)"
                )
        if self.between and self.weights not in (None, "model", "running_average"):
            raise ValueError(
                f"between is computed from running averages: leave weights at null, not {self.weights}"
            )
        return self


class Scoring(Section):
    """How clips are scored, whatever the model, and how the scores are measured."""

    amp: Literal["off", "fp16", "bf16"] = "off"
    """Precision of the forward pass; the last layer and the scores are float32 in any case."""
    window_s: Positive | None = None
    """Clips that are longer are cut into windows of this length, the last of which ends with the clip; null
    takes clips whole. Validation while training does the same."""
    hop_s: Positive | None = None
    """Seconds from one window to the next, at most window_s; null takes half of it."""
    window_mean: Literal["logits", "probabilities", "max"] = "probabilities"
    """How the windows of a clip become one score: mean of logits, mean of probabilities (over all classes
    where the model was trained with ce), or the largest of each class."""
    batch_size: Count = 32
    """Clips, or windows of clips, of a batch."""
    bootstrap: NonNegativeCount = 1000
    """Resamplings for the confidence intervals; 0 computes none."""
    zero_without_positives: bool = False
    """Count classes without positives as AP 0 in the means (old papers do); otherwise leave them out."""

    @model_validator(mode="after")
    def _windows_leave_nothing_out(self) -> Scoring:
        if self.hop_s is not None and self.window_s is None:
            raise ValueError("hop_s is set, but window_s, the length of the windows, is not")
        if self.hop_s is not None and self.hop_s > self.window_s:
            raise ValueError(
                f"hop_s {self.hop_s:g} is more than window_s {self.window_s:g}: sound between windows "
                "would not be heard"
            )
        return self


class Evaluation(Scoring, WeightChoice):
    """Which weights are evaluated, on what."""

    splits: Annotated[list[Literal["valid", "eval"]], Field(min_length=1)] = ["eval"]
    """Splits that stage 6 evaluates."""
