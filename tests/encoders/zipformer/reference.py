"""The reference vectors of the Zipformer, and the tiny model that they were computed with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from audiotag.encoders.zipformer.activations import SharedDropout, SwooshLinear
from audiotag.encoders.zipformer.attention import AttentionWeights
from audiotag.encoders.zipformer.balancer import Balancer
from audiotag.encoders.zipformer.encoder import Zipformer
from audiotag.encoders.zipformer.gradients import RangeLimiter
from audiotag.encoders.zipformer.layer import Bypass, Layer
from audiotag.encoders.zipformer.steps import Step, StepSource
from audiotag.encoders.zipformer.subsampling import ConvNeXt
from audiotag.frontend import Frontend
from audiotag.labels import Label, LabelTable
from audiotag.tagger import Tagger

DATA = Path(__file__).parents[2] / "data" / "zipformer"
CPU = torch.device("cpu")
SIZES = (
    "num_encoder_layers",
    "downsampling_factor",
    "encoder_dim",
    "encoder_unmasked_dim",
    "num_heads",
    "query_head_dim",
    "pos_head_dim",
    "value_head_dim",
    "feedforward_dim",
    "cnn_module_kernel",
    "pos_dim",
)

Tensors = dict[str, torch.Tensor]


def vectors(name: str) -> Tensors:
    """A file of tensors."""
    return load_file(DATA / f"{name}.safetensors")


def facts(name: str) -> dict[str, Any]:
    """A JSON file."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def tiny_zipformer(**settings: Any) -> Zipformer:
    """The tiny model's encoder, with weights of its own."""
    config = facts("tiny_config")
    return Zipformer(80, **{**{size: config[size] for size in SIZES}, **settings})


def tagger_of(encoder: Zipformer, classes: int = 10) -> Tagger:
    """A tagger around an encoder."""
    labels = LabelTable([Label(index, f"/m/{index}", f"class {index}") for index in range(classes)])
    return Tagger(Frontend("icefall80"), encoder, labels, None)


def reference_tagger() -> Tagger:
    """The tiny model with the reference's weights, in evaluation mode."""
    tagger = tagger_of(tiny_zipformer())
    state = part(vectors("tiny_eval"), "model.")
    tagger.load_state_dict({our_name(name): value for name, value in state.items()}, strict=True)
    return tagger.eval()


def our_name(name: str) -> str:
    """The tagger's name of a reference parameter."""
    if name.startswith("classifier.1."):
        return name.replace("classifier.1.", "head.")
    return f"encoder.{name}"


def part(tensors: Tensors, prefix: str) -> Tensors:
    """What lies under a prefix."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def force_determinism(tagger: Tagger) -> None:
    """Training as for the vectors: nothing random in the forward pass, everything on in the backward pass."""
    tagger.train()
    encoder = tagger.encoder
    encoder.set_batch_count(10000)
    for module in encoder.modules():
        if isinstance(module, Balancer | RangeLimiter):
            module.probability = 1.0
        elif isinstance(module, AttentionWeights):
            module.penalty_rate, module.position_skip_rate = 1.0, 0.0
        elif isinstance(module, Layer):
            for rate in ("attention_skip", "conv_skip", "ff2_skip", "ff3_skip", "const_attention"):
                setattr(module, f"{rate}_rate", 0.0)
        elif isinstance(module, ConvNeXt) or (isinstance(module, Bypass) and module.skip_rate is not None):
            module.skip_rate = 0.0
        elif isinstance(module, SharedDropout):
            module.rate = 0.0
        elif isinstance(module, SwooshLinear):
            module.dropout = 0.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    whiten_always(encoder)


def whiten_always(encoder: Zipformer) -> None:
    """Let every Whiten act in the next pass."""
    state = encoder.training_state()
    state["whitening_in_use"] = torch.ones_like(state["whitening_in_use"])
    encoder.load_training_state(state)


def step_of(module: nn.Module, active: bool, batch_count: float = 0.0) -> Step:
    """What a module alone goes by when all that it decides comes out the same."""
    source = StepSource([module])
    source.batch_count = batch_count
    (step,) = source.draw(CPU)
    decisions = torch.full_like(step.active, active)
    return step._replace(active=decisions, flags=decisions)


def deviation(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference, relative to that of what is expected unless that is 0."""
    norm = float(expected.norm())
    return float((actual - expected).norm()) / (norm or 1.0)
