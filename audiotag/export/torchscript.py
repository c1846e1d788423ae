"""TorchScript: a file that libtorch runs without Python and without this package."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch

from audiotag.atomic import atomic_write, replace_together
from audiotag.export.graph import DESCRIPTION_FILE, TaggingGraph, build_graph, write_description
from audiotag.export.package import TrainedModel

FORMAT = "audiotag-torchscript"
FILE = "model.ts"


def export_torchscript(folder: Path, model: TrainedModel, info: dict[str, Any]) -> Path:
    """Write model.ts, config.json and labels.csv into a folder; the path of the first.

    `torch.jit.load(...)(x, x_lens)` gives probabilities; see `TaggingGraph`.
    """
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.jit.save(trace(build_graph(model)), content)
    with replace_together(folder, sign=DESCRIPTION_FILE) as new:
        with atomic_write(new / FILE, "wb") as file:
            file.write(content.getvalue())
        write_description(new, FORMAT, model, {FILE: "TorchScript, float32"}, info)
    return folder / FILE


def trace(graph: TaggingGraph) -> torch.jit.ScriptModule:
    """The graph as it is traced on an example; other lengths and batches are for tests to try."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return torch.jit.trace(graph, graph.example(), check_trace=False)
