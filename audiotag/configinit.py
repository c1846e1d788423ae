"""Configuration of what training starts from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from audiotag.configbase import NonNegativeCount, Section
from audiotag.configevaluation import WeightChoice


class StartModel(Section):
    """A model to start from, and what becomes of its parts."""

    model: str | None = None
    """A file or folder of a model, the folder of a run (the weights that the keys below choose; without any
    of them those that its own config chooses for evaluation), or of a cross-validation (each fold takes its
    own run), a name on the Hugging Face hub (MIT/ast-finetuned-audioset-10-10-0.4593), or a variable of
    db.sh, written $DEIT_CHECKPOINT; null starts from random weights."""
    format: Literal["auto", "audiotag", "icefall", "ast", "hf", "beats", "espnet", "deit"] = "auto"
    """What wrote it; `auto` finds out."""
    head: Literal["auto", "keep", "fresh"] = "auto"
    """The head, with the LayerNorm before it: `keep` takes it, its classes matched by MID or name, and must
    know all of them; `fresh` starts from random weights (AST's recipes, also for the same classes); `auto`
    keeps it where the classes are the same ones and is fresh elsewhere."""
    layers: Annotated[list[NonNegativeCount], Field(min_length=1)] | None = None
    """Blocks of that model, counted from 0, that become this one's, in their order (Distil-AST: 0, 2, 4, 6,
    8, 10); null takes as many from the first on as there are, which must be all."""


class Init(WeightChoice, StartModel):
    """The weights that training starts from. Keys that choose among a run's weights take the place of what
    the run's config.yaml chooses; they go with a run's folder alone, `weights` with a checkpoint, too."""

    @model_validator(mode="after")
    def _something_is_read(self) -> Init:
        given = [name for name in ("format", "head", "layers") if getattr(self, name) not in ("auto", None)]
        if self.model is None and (given := given + self.chosen_keys):
            raise ValueError(f"{given[0]} is set, but model, which it is about, is not")
        return self

    @property
    def chosen_keys(self) -> list[str]:
        """Which keys choose among a run's weights: those that are not what they are by themselves, since the
        completed configuration of a run has them all."""
        fields = WeightChoice.model_fields.items()
        return [name for name, field in fields if getattr(self, name) != field.default]
