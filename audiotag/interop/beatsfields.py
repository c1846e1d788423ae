"""The `cfg` of BEATs' files, field by field, as settings of our encoder, and back.

What a file does not say is read from the shapes of its tensors, but for two fields that leave no trace in
them and change what the model computes: these must be there or be given.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from audiotag.errors import CheckpointError
from audiotag.interop.beatsnames import TABLE, WHAT
from audiotag.interop.foreignweights import find

logger = logging.getLogger(__name__)

SIZES = {
    "input_patch_size": "patch_size",
    "embed_dim": "patch_dim",
    "conv_bias": "patch_bias",
    "encoder_layers": "depth",
    "encoder_embed_dim": "embed_dim",
    "encoder_ffn_embed_dim": "feedforward_dim",
    "encoder_attention_heads": "num_heads",
    "conv_pos": "conv_kernel",
    "conv_pos_groups": "conv_groups",
    "num_buckets": "num_buckets",
    "gru_rel_pos": "gated_bias",
}
# Neither can be seen in tensors; published base models have these values, which the original's code does not
# take by default.
UNSEEN = {"deep_norm": True, "max_distance": 800}
# What acts in training alone, and what the original's code takes where a file does not say.
TRAINING = {
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "dropout_input": ("input_dropout", 0.0),
    "predictor_dropout": ("output_dropout", 0.1),
    "encoder_layerdrop": ("layer_drop", 0.0),
    "layer_wise_gradient_decay_ratio": ("gradient_decay", 1.0),
}
# Fields of which one value alone is known here.
ONLY = {"activation_fn": "gelu", "layer_norm_first": False, "relative_position_embedding": True}
HEAD = ("finetuned_model", "predictor_class")


def read_fields(
    cfg: Mapping[str, Any], weights: Mapping[str, Tensor], given: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """The settings of the encoder of a file.

    Args:
        cfg: its fields.
        weights: its tensors by the original's names, with one table.
        given: settings for what neither of them says.
        path: the file, for messages.
    """
    for name, value in ONLY.items():
        if cfg.get(name, value) != value:
            raise CheckpointError(f"{path}: its cfg has {name} {cfg[name]!r}; only {value!r} is known here")
    known = {*SIZES, *UNSEEN, *TRAINING, *ONLY, *HEAD}
    if unknown := sorted(map(str, set(cfg) - known)):
        logger.warning("%s: fields of its cfg that are not known here: %s", path, ", ".join(unknown))
    settings = infer_sizes(weights, path)
    settings |= {ours: cfg[theirs] for theirs, ours in SIZES.items() if theirs in cfg}
    settings |= {ours: cfg.get(theirs, default) for theirs, (ours, default) in TRAINING.items()}
    for name, published in UNSEEN.items():
        if name not in cfg and name not in given:
            raise CheckpointError(
                f"{path} does not say its {name}, which cannot be seen in its tensors and changes what it "
                f"computes: give encoder.{name}, {str(published).lower()} for all published base models"
            )
        settings[name] = cfg.get(name, given.get(name))
    return settings


def infer_sizes(weights: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """What the shapes of tensors say."""

    def shape(name: str) -> tuple[int, ...]:
        return tuple(find(weights, name, path, WHAT).shape)

    kernel = shape("encoder.pos_conv.0.weight_v")
    patches = shape("patch_embedding.weight")
    table = shape(TABLE)
    return {
        "patch_size": patches[-1],
        "patch_dim": patches[0],
        "patch_bias": "patch_embedding.bias" in weights,
        "depth": sum(name.endswith(".fc1.weight") for name in weights),
        "embed_dim": kernel[0],
        "feedforward_dim": shape("encoder.layers.0.fc1.weight")[0],
        "num_heads": table[1],
        "conv_kernel": kernel[2],
        "conv_groups": kernel[0] // max(1, kernel[1]),
        "num_buckets": table[0],
        "gated_bias": "encoder.layers.0.self_attn.grep_a" in weights,
    }


def write_fields(encoder: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """The cfg of an encoder's settings with a head."""
    fields = {theirs: encoder[ours] for theirs, ours in SIZES.items()}
    fields |= {name: encoder[name] for name in UNSEEN}
    fields |= {theirs: encoder[ours] for theirs, (ours, _) in TRAINING.items()}
    return {**fields, **ONLY, "finetuned_model": True, "predictor_class": num_classes}
