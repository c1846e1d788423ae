"""A tagger as one function of features that other programs can run: from log-mel to probabilities.

Shapes: N clips, T frames, F mel bins, C classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiotag.atomic import atomic_write
from audiotag.export.package import TrainedModel
from audiotag.labels import LabelTable

DESCRIPTION_FILE = "config.json"


class TaggingGraph(nn.Module):
    """Log-mel features and their lengths to probabilities.

    Encoders of one fixed length take features as the front end finishes them. Those of any length take what a
    filter bank yields, since that is what programs such as sherpa-onnx have: a normalisation is then part of
    the graph, and clips of fewer frames than the encoder needs are padded in it.
    """

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        tagger, frontend = model.tagger, model.tagger.frontend
        self.encoder, self.head_norm, self.head = tagger.encoder, tagger.head_norm, tagger.head
        self.num_mel_bins, self.frames = frontend.num_mel_bins, frontend.target_frames
        self.is_softmax = model.loss == "ce"
        self.mean, self.std = (None, None) if self.frames else (frontend.mean, frontend.std)
        self.pad_value = frontend.preset.pad_value
        self.min_frames = getattr(tagger.encoder, "min_frames", 1)

    def forward(self, x: Tensor, x_lens: Tensor) -> Tensor:
        """Features (N,T,F) float32 and lengths (N,) int64 to probabilities (N,C)."""
        if not self.frames:
            x = self._complete(x, x_lens)
        y, lengths = self.encoder(x, x_lens)
        # Sums in float32 of clips' own embeddings; written out, since a trace must serve any length.
        inside = torch.arange(y.shape[1], device=y.device)[None] < lengths[:, None]
        summed = (y * inside[:, :, None].to(y.dtype)).sum(dim=1)
        logits = self.head(self.head_norm(summed / lengths[:, None].to(y.dtype)))
        return logits.softmax(dim=-1) if self.is_softmax else logits.sigmoid()

    def _complete(self, x: Tensor, x_lens: Tensor) -> Tensor:
        # What is behind a shorter clip's end is heard at its last frames: it must not depend on the caller.
        inside = torch.arange(x.shape[1], device=x.device)[None] < x_lens[:, None]
        x = x.where(inside[:, :, None], self.pad_value)
        if self.min_frames > 1:
            # Not by an `if`, which a trace would follow for all lengths alike.
            size = torch._shape_as_tensor(x)[1].clamp(min=self.min_frames)
            x = functional.pad(x, (0, 0, 0, self.min_frames - 1), value=self.pad_value)[:, :size]
        return x if self.mean is None else (x - self.mean) / (2 * self.std)

    def example(self) -> tuple[Tensor, Tensor]:
        """Inputs to trace with: two clips of unlike lengths."""
        frames = self.frames or max(4 * self.min_frames, 200)
        shape = (2, frames, self.num_mel_bins)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return x, torch.tensor([frames, frames if self.frames else frames - 30])


def build_graph(model: TrainedModel) -> TaggingGraph:
    """The graph of a model, to be traced on the CPU."""
    graph = TaggingGraph(model).cpu().eval()
    graph.requires_grad_(False)
    return graph


def write_description(
    folder: Path, format: str, model: TrainedModel, files: dict[str, str], info: dict[str, Any]
) -> None:
    """Write config.json, which says what the model's files take and give, and the labels.

    Args:
        folder: where the files are.
        format: what they are.
        model: what they are made of.
        files: what each file is.
        info: where the model comes from.
    """
    frontend = model.tagger.frontend
    description = {
        "format": format,
        "version": 1,
        "files": files,
        "inputs": {
            "x": f"float32 (N, {frontend.target_frames or 'T'}, {frontend.num_mel_bins}): "
            + ("finished features" if frontend.target_frames else "log-mel, not normalised"),
            "x_lens": "int64 (N,): frames of each clip",
        },
        "outputs": {"logits": f"float32 (N, {len(model.tagger.labels)}): probabilities"},
        "probabilities": "softmax" if model.loss == "ce" else "sigmoid",
        **model.config,
        "loss": {"name": model.loss},
        "num_classes": len(model.tagger.labels),
        "info": info,
    }
    with atomic_write(folder / DESCRIPTION_FILE) as file:
        json.dump(description, file, indent=2)
    with atomic_write(folder / "labels.csv") as file:
        file.write(sherpa_labels(model.tagger.labels))


def sherpa_labels(labels: LabelTable) -> str:
    """labels.csv as sherpa-onnx reads it, and as every reader of CSV does.

    It wants every name in quotes, knows no quotes inside of them, and splits at the first two commas.
    """
    rows = ["index,mid,display_name"]
    for label in labels:
        mid = label.mid.replace('"', "'").replace(",", ";")
        name = label.name.replace('"', "'")
        rows.append(f'{label.index},{mid},"{name}"')
    return "\n".join(rows) + "\n"
