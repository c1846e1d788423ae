"""icefall's audio taggers: read its checkpoints and exported models, and write them back.

An exported model is a file of torch with {"model": weights}; a training checkpoint has besides it
`model_avg`, the running average, and much else. Neither says how large the Zipformer is: that is read from
the shapes of its weights, see `infer_encoder`.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiotag.atomic import atomic_write
from audiotag.errors import CheckpointError
from audiotag.export.package import TrainedModel
from audiotag.interop.foreignweights import as_weights, check_fit, find, read_torch_file
from audiotag.interop.sourcemodel import Hints, SourceModel, complete, make_layout

logger = logging.getLogger(__name__)

FILE = "pretrained.pt"
PRESET = "icefall80"
WHAT = "a Zipformer tagger"
# What all published models have. Weights give only products of it with the number of heads.
POS_HEAD_DIM = 4
STACK = re.compile(r"encoder\.encoders\.(\d+)\.(?:encoder\.)?layers\.(\d+)\.")


def is_icefall(path: Path, content: Any) -> bool:
    """Whether the content of a file is that of a model of icefall."""
    state = content.get("model") if isinstance(content, Mapping) else None
    return isinstance(state, Mapping) and any(STACK.search(str(name)) for name in state)


def read_icefall(path: Path, hints: Hints) -> SourceModel:
    """The model of pretrained.pt or epoch-N.pt."""
    weights = read_weights(path, hints.weights)
    inferred = infer_encoder(weights, hints.encoder, path)
    features, encoder = complete(
        {"features": {"preset": PRESET}, "encoder": {"name": "zipformer", **inferred}}, path
    )
    layout = make_layout(features, encoder)
    num_classes = len(find(weights, "classifier.1.bias", path, WHAT))
    expected = dict(layout.state_dict())
    expected["classifier.1.weight"] = torch.empty(num_classes, layout.output_dim, device="meta")
    expected["classifier.1.bias"] = torch.empty(num_classes, device="meta")
    check_fit(expected, weights, path, WHAT, "give the encoder's settings with --set encoder.<name>=<value>")
    own = {own_name(name): value for name, value in weights.items()}
    return SourceModel(path, (path,), own, encoder, features, layout)


def export_icefall(folder: Path, model: TrainedModel) -> Path:
    """Write pretrained.pt and labels.csv into a folder, for icefall; the path of the first."""
    encoder = model.config["encoder"]["name"]
    if encoder != "zipformer":
        raise CheckpointError(f"icefall knows Zipformers, not the encoder {encoder}")
    frontend = model.tagger.frontend
    if model.config["features"]["preset"] != PRESET or frontend.mean is not None or model.loss == "ce":
        logger.warning(
            "icefall computes features of preset %s, not normalised, and takes the sigmoid of logits: this "
            "model was trained otherwise, so what icefall makes of it will be wrong",
            PRESET,
        )
    weights = {foreign_name(name): value.cpu() for name, value in model.tagger.state_dict().items()}
    content = io.BytesIO()
    torch.save({"model": weights}, content)
    with atomic_write(folder / FILE, "wb") as file:
        file.write(content.getvalue())
    model.tagger.labels.write(folder / "labels.csv")
    return folder / FILE


def foreign_name(name: str) -> str:
    """What icefall calls a tensor of a tagger."""
    if name.startswith("head."):
        return f"classifier.1.{name.removeprefix('head.')}"
    return name.removeprefix("encoder.")


def own_name(name: str) -> str:
    """What a tagger calls a tensor of icefall's."""
    if name.startswith("classifier.1."):
        return f"head.{name.removeprefix('classifier.1.')}"
    return f"encoder.{name}"


def read_weights(path: Path, kind: str) -> dict[str, Tensor]:
    """The tensors of one kind in a file, in float32, without the prefix that DDP leaves."""
    state = read_torch_file(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise CheckpointError(f"{path}: not a model of icefall, which has its weights under 'model'")
    weights = state.get(kind)
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path} has no {kind}: an exported model has only 'model' (--weights model)")
    return as_weights(weights, path)


def infer_encoder(weights: Mapping[str, Tensor], given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings of a Zipformer from the shapes of its weights, with those given in place of what they say.

    Weights hold the products H*p, H*(2q+p) and H*v of the number of heads H and the widths of a head's
    positions p, queries q and values v. With p = 4, or either H or p given, the others follow. The unmasked
    widths leave no trace, and act in training alone; they become those of the published models.
    """
    if any("chunkwise_conv" in name for name in weights):
        raise CheckpointError(f"{path}: a causal (streaming) Zipformer, of which there is none here")
    depths: dict[int, int] = {}
    for match in map(STACK.match, weights):
        if match:
            stack, layer = map(int, match.groups())
            depths[stack] = max(depths.get(stack, 0), layer + 1)
    if sorted(depths) != list(range(len(depths))) or not depths:
        raise CheckpointError(f"{path}: not a Zipformer of icefall: it has no encoder.encoders.0.layers.0")
    stacks = [
        infer_stack(weights, stack, {name: of_stack(value, stack) for name, value in given.items()}, path)
        for stack in range(len(depths))
    ]
    inferred = {name: [stack[name] for stack in stacks] for name in stacks[0]}
    inferred["num_encoder_layers"] = [depths[stack] for stack in range(len(depths))]
    prefix = layer_prefix(weights, 0)
    inferred["pos_dim"] = find(weights, f"{prefix}.self_attn_weights.linear_pos.weight", path, WHAT).shape[1]
    return {**inferred, **given}


def infer_stack(
    weights: Mapping[str, Tensor], stack: int, given: Mapping[str, Any], path: Path
) -> dict[str, int]:
    """The settings of one stack, from its first layer."""
    prefix = layer_prefix(weights, stack)

    def shape(name: str) -> tuple[int, ...]:
        return tuple(find(weights, f"{prefix}.{name}", path, WHAT).shape)

    downsample = weights.get(f"encoder.encoders.{stack}.downsample.bias")
    dim = shape("norm.bias")[0]
    positions, queries, values = (
        shape(f"{name}.weight")[0]
        for name in ("self_attn_weights.linear_pos", "self_attn_weights.in_proj", "self_attn1.in_proj")
    )
    heads = given.get("num_heads") or positions // (given.get("pos_head_dim") or POS_HEAD_DIM)
    # Whatever does not divide is found when the weights are compared with the model.
    heads = heads if isinstance(heads, int) and heads > 0 else 1
    pos_head_dim = max(1, positions // heads)
    return {
        "downsampling_factor": 1 if downsample is None else len(downsample),
        "encoder_dim": dim,
        "encoder_unmasked_dim": 256 if dim >= 384 else min(dim, 192),
        "num_heads": heads,
        "query_head_dim": max(1, (queries // heads - pos_head_dim) // 2),
        "pos_head_dim": pos_head_dim,
        "value_head_dim": max(1, values // heads),
        "feedforward_dim": shape("feed_forward2.in_proj.weight")[0],
        "cnn_module_kernel": shape("conv_module1.depthwise_conv.weight")[-1],
    }


def of_stack(value: Any, stack: int) -> Any:
    """A stack's part of a setting that is a list, or one number for all."""
    if not isinstance(value, list):
        return value
    return value[stack] if stack < len(value) else value[0] if len(value) == 1 else None


def layer_prefix(weights: Mapping[str, Tensor], stack: int) -> str:
    """The name of a stack's first layer; stacks of a lower rate are inside of another module."""
    start = f"encoder.encoders.{stack}"
    inside = any(name.startswith(f"{start}.encoder.") for name in weights)
    return f"{start}.encoder.layers.0" if inside else f"{start}.layers.0"
