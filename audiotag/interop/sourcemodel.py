"""What every reader of a format makes of a file or folder: a model by the names of a tagger's parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiotag.configfile import validate
from audiotag.encoders.registry import build_encoder, encoder_settings
from audiotag.labels import LabelTable
from audiotag.tagger import build_frontend


@dataclass(frozen=True)
class Hints:
    """What a file of weights may not tell of its model; readers ask only for what is missing.

    Args:
        encoder: settings of the encoder.
        target_frames: length of its input.
        weights: which weights of a training checkpoint, `model` or `model_avg`.
    """

    encoder: Mapping[str, Any] = field(default_factory=dict)
    target_frames: int | None = None
    weights: str = "model"


@dataclass(frozen=True)
class SourceModel:
    """A model that others start from.

    Args:
        path: the file or folder, for messages.
        files: those that hold the weights.
        weights: by the names of a tagger's state dict, in float32; without a head where it has none.
        encoder: settings of its encoder.
        features: the whole section; None for a model that was never trained on sound.
        layout: its encoder on the meta device: the shapes alone.
        labels: its classes; None where it does not name them.
        loss: what it was trained with.
    """

    path: Path
    files: tuple[Path, ...]
    weights: Mapping[str, Tensor]
    encoder: Mapping[str, Any]
    features: Mapping[str, Any] | None
    layout: nn.Module
    labels: LabelTable | None = None
    loss: str = "bce"

    @property
    def num_classes(self) -> int | None:
        """Rows of its head; None without one."""
        return len(self.weights["head.bias"]) if "head.bias" in self.weights else None

    @property
    def sections(self) -> dict[str, Any]:
        """The sections of a configuration that builds the same model."""
        return {"features": dict(self.features or {}), "encoder": dict(self.encoder)}


def complete(tree: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `features` and `encoder` sections with all settings filled in and checked."""
    config = validate(tree, {}, str(path)).model_dump(mode="json")
    return config["features"], config["encoder"]


def make_layout(features: Mapping[str, Any], encoder: Mapping[str, Any]) -> nn.Module:
    """The encoder that two sections describe, on the meta device."""
    frontend = build_frontend(dict(features))
    with torch.device("meta"):
        return build_encoder(
            encoder["name"],
            num_mel_bins=frontend.num_mel_bins,
            target_frames=frontend.target_frames,
            **encoder_settings(encoder),
        )
