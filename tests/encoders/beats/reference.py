"""The small model of the reference vectors, and what was recorded of it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from audiotag.encoders.beats.encoder import Beats
from audiotag.frontend import Frontend
from audiotag.labels import Label, LabelTable
from audiotag.tagger import Tagger

DATA = Path(__file__).parents[2] / "data" / "beats"
SIZES = {
    "patch_dim": 32,
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 4,
    "feedforward_dim": 96,
    "conv_kernel": 16,
    "conv_groups": 4,
    "num_buckets": 32,
    "max_distance": 64,
}
LABELS = LabelTable([Label(i, f"/m/{i}", f"class {i}") for i in range(10)])
TABLE = "relative_attention_bias.weight"

Tensors = dict[str, torch.Tensor]


@cache
def vectors(name: str) -> Tensors:
    """The tensors of a file."""
    return load_file(DATA / f"{name}.safetensors")


def facts(name: str) -> Any:
    """The content of a JSON file."""
    return json.loads((DATA / f"{name}.json").read_text())


def part(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors under a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def our_name(name: str) -> str:
    """A tagger's name of an original parameter; all copies of the table become one."""
    if name.startswith("predictor."):
        return name.replace("predictor.", "head.")
    return f"encoder.{TABLE}" if name.endswith(TABLE) else f"encoder.{name}"


def reference_tagger(**settings: Any) -> Tagger:
    """A tagger with the recorded weights, by the original's rule of padding if no other is given."""
    encoder = Beats(**{**SIZES, "padding": "original", **settings})
    tagger = Tagger(Frontend("beats128"), encoder, LABELS, None)
    state = part(vectors("tiny_model"), "state.")
    tagger.load_state_dict({our_name(name): value for name, value in state.items()})
    return tagger


def tiny_beats(seed: int = 0, **settings: Any) -> Beats:
    """The same size with weights of its own."""
    torch.manual_seed(seed)
    return Beats(**{**SIZES, **settings})
