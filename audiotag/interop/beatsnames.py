"""Tensors of a BEATs by the names of its original, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from audiotag.errors import CheckpointError

WHAT = "a BEATs"
TABLE = "relative_attention_bias.weight"
TABLE_COPY = re.compile(r"encoder\.layers\.(\d+)\.self_attn\.relative_attention_bias\.weight")
# What newer versions of torch call the two parts of a weight that is normed.
NEWER = {
    "encoder.pos_conv.0.parametrizations.weight.original0": "encoder.pos_conv.0.weight_g",
    "encoder.pos_conv.0.parametrizations.weight.original1": "encoder.pos_conv.0.weight_v",
}
# The order in which the original lists its parts, and those of a layer; names begin with them.
ORDER = (
    "post_extract_proj.",
    "patch_embedding.",
    "encoder.pos_conv.0.bias",
    "encoder.pos_conv.0.weight_g",
    "encoder.pos_conv.0.weight_v",
    "encoder.layers.",
    "encoder.layer_norm.",
    "layer_norm.",
    "predictor.",
)
FIRST_TABLE = "the first layer's own table, which the others are given at the end of their attention"
ORDER_IN_LAYER = (
    "self_attn.grep_a",
    FIRST_TABLE,
    "self_attn.k_proj.",
    "self_attn.v_proj.",
    "self_attn.q_proj.",
    "self_attn.out_proj.",
    "self_attn.grep_linear.",
    "self_attn.relative_attention_bias.",
    "self_attn_layer_norm.",
    "fc1.",
    "fc2.",
    "final_layer_norm.",
)


def own_name(name: str) -> str:
    """What a tagger calls a tensor of the original, whose copies of the table are one by now."""
    if name.startswith("predictor."):
        return name.replace("predictor.", "head.")
    return f"encoder.{name}"


def with_one_table(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a file with names as in older versions of torch, and the table of the bias once.

    Files list it under every layer, or under the first alone.
    """
    renamed = {NEWER.get(name, name): value for name, value in weights.items()}
    tables = {name: value for name, value in renamed.items() if TABLE_COPY.fullmatch(name)}
    if not tables:
        raise CheckpointError(f"{path}: does not fit {WHAT}: it has no table {TABLE}")
    first = next(iter(tables.values()))
    for name, table in tables.items():
        if not torch.equal(table, first):
            raise CheckpointError(f"{path}: {name} differs from the first layer's, which all layers share")
    return {TABLE: first, **{name: value for name, value in renamed.items() if name not in tables}}


def foreign_weights(tagger: nn.Module) -> dict[str, Tensor]:
    """A tagger's tensors by the original's names and in its order, the table under every layer."""
    renamed: dict[str, Tensor] = {}
    for name, value in tagger.state_dict().items():
        value = value.detach().cpu()
        if name.startswith("head."):
            renamed[name.replace("head.", "predictor.")] = value
        elif name == f"encoder.{TABLE}":
            for index in range(len(tagger.encoder.blocks)):
                renamed[f"encoder.layers.{index}.self_attn.{TABLE}"] = value
        else:
            renamed[name.removeprefix("encoder.")] = value
    return {name: renamed[name] for name in sorted(renamed, key=place)}


def place(name: str) -> tuple[int, int, int, bool]:
    """Where the original lists a tensor: its part, the layer, the part of the layer, weight before bias."""
    part = first_that_begins(name, ORDER)
    if not name.startswith("encoder.layers."):
        return part, 0, 0, name.endswith(".bias")
    index, inner = name.removeprefix("encoder.layers.").split(".", 1)
    if index == "0" and inner.endswith(TABLE):
        inner = FIRST_TABLE
    return part, int(index), first_that_begins(inner, ORDER_IN_LAYER), name.endswith(".bias")


def first_that_begins(name: str, beginnings: tuple[str, ...]) -> int:
    """The index of the beginning that a name has."""
    return next(index for index, beginning in enumerate(beginnings) if name.startswith(beginning))
