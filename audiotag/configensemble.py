"""Configuration of an ensemble: its members, and how their scores become one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from audiotag.configbase import NonNegative, NonNegativeCount, Section, Seed
from audiotag.configevaluation import Scoring, WeightChoice


class Member(WeightChoice):
    """One member: scores that are there already, or a model, which is scored. Keys that choose among a run's
    weights take the place of what the run's config.yaml chooses; they go with runs alone."""

    path: str
    """Score file, evaluation folder, folder of a run, checkpoint, or folder of an exported or imported model;
    relative to where the command runs, or with a variable of db.sh, written $NAME."""
    name: str | None = None
    """What it is called in tables; null takes its path."""
    valid_scores: str | None = None
    """For scores: those of the same model on the clips that `member_weights: fitted` is fitted on; null takes
    the evaluation of valid that lies beside an evaluation folder."""

    @model_validator(mode="before")
    @classmethod
    def _a_path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @property
    def chooses_weights(self) -> bool:
        """Whether any key chooses among a run's weights."""
        return bool(self.model_fields_set & WeightChoice.model_fields.keys())


class Ensemble(Section):
    """An ensemble of models."""

    title: str = ""
    """What it is, in a few words; appears in the results."""
    members: Annotated[list[Member], Field(min_length=1)]
    """The members; any number, of any encoders."""
    splits: Annotated[list[Literal["valid", "eval"]], Field(min_length=1)] = ["eval"]
    """Splits whose scores are combined; scores that are given as files are of one split."""
    combine: Literal["probabilities", "logits"] = "probabilities"
    """Mean of probabilities (AST's ensembles), or of logits."""
    member_weights: Literal["uniform", "fitted"] | Annotated[list[NonNegative], Field(min_length=1)] = (
        "uniform"
    )
    """All members alike, fitted on valid, or a number for each member; numbers are divided by their sum."""
    fit: Literal["loss", "mAP"] = "loss"
    """What `fitted` makes best on valid: `loss`, the cross-entropy, whose minimum is found exactly; or `mAP`,
    by adding one member after the other, each as often as it helps."""
    common: bool = False
    """Combine the clips and classes that all members have; otherwise other ones are an error."""
    labels: str | None = None
    """Label list (index, mid, display_name) of score files that do not lie in an evaluation folder."""
    seed: Seed = 42
    """The resamplings for the confidence intervals derive from it."""
    storage: Literal["stored", "on_the_fly"] = "on_the_fly"
    """For models: features from stage 2, or computed from audio, which serves members with different ones."""
    num_workers: NonNegativeCount = 2
    """For models: loader processes for each process."""
    tf32: bool = True
    """For models: allow TF32 matrix products on GPUs."""
    evaluation: Scoring = Scoring()
    """For models: how they are scored; for all: how the scores are measured."""

    @model_validator(mode="after")
    def _one_weight_for_each(self) -> Ensemble:
        if isinstance(self.member_weights, list):
            if len(self.member_weights) != len(self.members):
                raise ValueError(
                    f"member_weights has {len(self.member_weights)} numbers for {len(self.members)} members"
                )
            if not sum(self.member_weights):
                raise ValueError("member_weights are all 0: at least one member must count")
        return self
