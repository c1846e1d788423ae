"""Configuration of what training starts from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from audiotag.configbase import NonNegativeCount, Section


class Init(Section):
    """The weights that training starts from."""

    model: str | None = None
    """A file or folder of a model, a name on the Hugging Face hub (MIT/ast-finetuned-audioset-10-10-0.4593),
    or a variable of db.sh, written $DEIT_CHECKPOINT; null starts from random weights."""
    format: Literal["auto", "audiotag", "icefall", "ast", "hf", "beats", "espnet", "deit"] = "auto"
    """What wrote it; `auto` finds out."""
    head: Literal["auto", "keep", "fresh"] = "auto"
    """The head, with the LayerNorm before it: `keep` takes it, its classes matched by MID or name, and must
    know all of them; `fresh` starts from random weights (AST's recipes, also for the same classes); `auto`
    keeps it where the classes are the same ones and is fresh elsewhere."""
    layers: Annotated[list[NonNegativeCount], Field(min_length=1)] | None = None
    """Blocks of that model, counted from 0, that become this one's, in their order (Distil-AST: 0, 2, 4, 6,
    8, 10); null takes as many from the first on as there are, which must be all."""

    @model_validator(mode="after")
    def _something_is_read(self) -> Init:
        for name in ("format", "head", "layers"):
            if self.model is None and getattr(self, name) not in ("auto", None):
                raise ValueError(f"{name} is set, but model, which it is about, is not")
        return self
