"""icefall's audio taggers: read its checkpoints and exported models, and write them back.

An exported model is a file of torch with {"model": weights}; a training checkpoint has besides it
`model_avg`, the running average, and much else. Neither says how large the Zipformer is: that is read from
the shapes of its weights, see `infer_encoder`.
"""

from __future__ import annotations

import io
import logging
import pathlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiotag.atomic import atomic_write
from audiotag.configfile import validate
from audiotag.errors import CheckpointError
from audiotag.export.package import TrainedModel
from audiotag.labels import Label, LabelTable
from audiotag.tagger import build_tagger
from audiotag.training.checkpoint import check_archive

logger = logging.getLogger(__name__)

FILE = "pretrained.pt"
PRESET = "icefall80"
# What all published models have. Weights give only products of it with the number of heads.
POS_HEAD_DIM = 4
# Training checkpoints hold paths; Python 3.13 calls their classes otherwise.
PATHS: list[Any] = [
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    pathlib.WindowsPath,
    pathlib.PureWindowsPath,
    (pathlib.PosixPath, "pathlib._local.PosixPath"),
    (pathlib.PurePosixPath, "pathlib._local.PurePosixPath"),
]
STACK = re.compile(r"encoder\.encoders\.(\d+)\.(?:encoder\.)?layers\.(\d+)\.")


def import_icefall(
    path: Path,
    *,
    kind: str = "model",
    labels: LabelTable | None = None,
    settings: Mapping[str, Any] | None = None,
) -> TrainedModel:
    """The model of an icefall file, in eval mode.

    Args:
        path: pretrained.pt or epoch-N.pt.
        kind: `model`, or `model_avg` of a training checkpoint.
        labels: its classes; None makes names up.
        settings: of the encoder, in place of inferred ones.
    """
    weights = read_weights(path, kind)
    encoder = infer_encoder(weights, settings or {}, path)
    tree = {"features": {"preset": PRESET}, "encoder": {"name": "zipformer", **encoder}}
    config = validate(tree, {}, str(path)).model_dump(mode="json")
    num_classes = len(find(weights, "classifier.1.bias", path))
    if labels is None:
        logger.warning("no --labels: the %d classes are called class 0, class 1, ...", num_classes)
        labels = LabelTable([Label(i, f"class_{i}", f"class {i}") for i in range(num_classes)])
    if len(labels) != num_classes:
        raise CheckpointError(f"{path} has {num_classes} classes, the label list {len(labels)}: name its own")
    tagger = build_tagger(config["features"], config["encoder"], labels)
    check_fit({foreign_name(name): value for name, value in tagger.state_dict().items()}, weights, path)
    own = {name: weights[foreign_name(name)] for name in tagger.state_dict()}
    tagger.load_state_dict(own)
    return TrainedModel(tagger.eval(), "bce", {name: config[name] for name in ("features", "encoder")})


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


def read_weights(path: Path, kind: str) -> dict[str, Tensor]:
    """The tensors of one kind in a file, in float32, without the prefix that DDP leaves."""
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        with torch.serialization.safe_globals(PATHS):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint not found: {path}") from None
    except PermissionError:
        raise
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: refused, since it is damaged or holds objects other than tensors, plain values, paths"
        ) from None
    except Exception as error:  # arbitrary bytes make torch's reader fail in many ways
        raise CheckpointError(f"{path}: damaged or not a file of torch ({type(error).__name__})") from None
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise CheckpointError(f"{path}: not a model of icefall, which has its weights under 'model'")
    weights = state.get(kind)
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path} has no {kind}: an exported model has only 'model' (--weights model)")
    if next(iter(weights), "").startswith("module."):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    for name, value in weights.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise CheckpointError(f"{path}: {name} is not a tensor of numbers")
    return {name: value.float() for name, value in weights.items()}


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
    inferred["pos_dim"] = find(weights, f"{prefix}.self_attn_weights.linear_pos.weight", path).shape[1]
    return {**inferred, **given}


def infer_stack(
    weights: Mapping[str, Tensor], stack: int, given: Mapping[str, Any], path: Path
) -> dict[str, int]:
    """The settings of one stack, from its first layer."""
    prefix = layer_prefix(weights, stack)

    def shape(name: str) -> tuple[int, ...]:
        return tuple(find(weights, f"{prefix}.{name}", path).shape)

    downsample = weights.get(f"encoder.encoders.{stack}.downsample.bias")
    dim = shape("norm.bias")[0]
    positions, queries, values = (
        shape(f"{name}.weight")[0]
        for name in ("self_attn_weights.linear_pos", "self_attn_weights.in_proj", "self_attn1.in_proj")
    )
    heads = given.get("num_heads") or positions // given.get("pos_head_dim", POS_HEAD_DIM)
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


def find(weights: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    """A tensor that every Zipformer has."""
    if name not in weights:
        raise CheckpointError(f"{path}: does not fit a Zipformer tagger: tensor {name} is missing")
    return weights[name]


def check_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights of another shape, naming the first tensor that is wrong by its own name."""
    advice = "give the encoder's settings with --set encoder.<name>=<value>"
    for name, tensor in expected.items():
        if tensor.shape != find(found, name, path).shape:
            raise CheckpointError(
                f"{path}: does not fit: tensor {name} has shape {tuple(found[name].shape)}, a Zipformer "
                f"of the inferred sizes {tuple(tensor.shape)}: {advice}"
            )
    for name in found:
        if name not in expected:
            raise CheckpointError(f"{path}: does not fit: it has an unknown tensor {name}: {advice}")
