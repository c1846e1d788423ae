"""Names of an AST's tensors in Hugging Face's format and in a tagger, both ways.

Queries, keys and values are one tensor here and three there. Versions of transformers from 5 on have other
names in memory, which `torch.save` of a state dict keeps; files that the library writes have the first ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from audiotag.errors import CheckpointError

PREFIX = "audio_spectrogram_transformer."
PARTS = ("query", "key", "value")
# Ours, without the number of the block and `weight` or `bias`; as stored; as in memory of later versions.
BLOCK_PARTS = (
    ("norm1", "layernorm_before", "layernorm_before"),
    ("attn.query", "attention.attention.query", "attention.q_proj"),
    ("attn.key", "attention.attention.key", "attention.k_proj"),
    ("attn.value", "attention.attention.value", "attention.v_proj"),
    ("attn.proj", "attention.output.dense", "attention.o_proj"),
    ("norm2", "layernorm_after", "layernorm_after"),
    ("mlp.fc1", "intermediate.dense", "mlp.fc1"),
    ("mlp.fc2", "output.dense", "mlp.fc2"),
)
OTHERS = {
    "encoder.cls_token": f"{PREFIX}embeddings.cls_token",
    "encoder.pos_embed": f"{PREFIX}embeddings.position_embeddings",
    "encoder.dist_token": f"{PREFIX}embeddings.distillation_token",
    "encoder.patch_embed.proj": f"{PREFIX}embeddings.patch_embeddings.projection",
    "encoder.norm": f"{PREFIX}layernorm",
    "head_norm": "classifier.layernorm",
    "head": "classifier.dense",
}
STORED = {theirs: ours for ours, theirs, _ in BLOCK_PARTS}
IN_MEMORY = {theirs: ours for ours, _, theirs in BLOCK_PARTS}
OUTER = {theirs: ours for ours, theirs in OTHERS.items()}
STORED_BLOCK = re.compile(re.escape(PREFIX) + r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")
BLOCK_IN_MEMORY = re.compile(re.escape(PREFIX) + r"layers\.(\d+)\.(.+)\.(weight|bias)")


def own_name(name: str) -> str | None:
    """What a tagger calls a tensor, but for the three that make its `attn.qkv`; None for an unknown name."""
    for pattern, parts in ((STORED_BLOCK, STORED), (BLOCK_IN_MEMORY, IN_MEMORY)):
        match = pattern.fullmatch(name)
        if match and match[2] in parts:
            return f"encoder.blocks.{match[1]}.{parts[match[2]]}.{match[3]}"
    if name in OUTER:
        return OUTER[name]
    stem, _, kind = name.rpartition(".")
    return f"{OUTER[stem]}.{kind}" if stem in OUTER else None


def to_own(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A state dict of theirs, with or without classifier, by a tagger's names."""
    if "embeddings.cls_token" in weights:
        weights = {PREFIX + name: value for name, value in weights.items()}
    own: dict[str, Tensor] = {}
    for name, value in weights.items():
        renamed = own_name(name)
        if renamed is None:
            raise CheckpointError(f"{path}: does not fit an AST: it has an unknown tensor {name}")
        own[renamed] = value
    for name in [name for name in own if ".attn.query." in name]:
        joined = name.replace(".query.", ".qkv.")
        parts = [name.replace(".query.", f".{part}.") for part in PARTS]
        missing = [part for part in parts if part not in own]
        if missing:
            raise CheckpointError(f"{path}: does not fit an AST: it has {name} but no {missing[0]}")
        own[joined] = torch.cat([own.pop(part) for part in parts])
    return own


def to_foreign(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tagger's state dict by the names of files that transformers writes."""
    stored = {ours: theirs for ours, theirs, _ in BLOCK_PARTS}
    foreign: dict[str, Tensor] = {}
    for name, value in own.items():
        stem, _, kind = name.rpartition(".")
        match = re.fullmatch(r"encoder\.blocks\.(\d+)\.(.+)", stem)
        if name in OTHERS:
            foreign[OTHERS[name]] = value
        elif match is None:
            foreign[f"{OTHERS[stem]}.{kind}"] = value
        elif match[2] == "attn.qkv":
            for part, rows in zip(PARTS, value.tensor_split(3), strict=True):
                foreign[f"{PREFIX}encoder.layer.{match[1]}.{stored[f'attn.{part}']}.{kind}"] = rows
        else:
            foreign[f"{PREFIX}encoder.layer.{match[1]}.{stored[match[2]]}.{kind}"] = value
    return {name: value.contiguous() for name, value in foreign.items()}
