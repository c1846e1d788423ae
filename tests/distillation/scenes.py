"""Teachers with made-up weights, as files and folders that training can open."""

from __future__ import annotations

from pathlib import Path

import torch

from audiotag.config import Config
from audiotag.export.package import export_package
from audiotag.labels import LabelTable
from audiotag.tagger import Tagger, build_tagger
from tests.tiny import TINY


def write_teacher(
    folder: Path,
    labels: LabelTable,
    *,
    seed: int = 1,
    width: int = 24,
    depth: int = 2,
    loss: str = "bce",
    features: dict | None = None,
) -> Tagger:
    """Export a tiny teacher whose logits are some units apart; returns it in eval mode."""
    sections = {
        "features": {**TINY["features"], **(features or {})},
        "encoder": {**TINY["encoder"], "embed_dim": width, "depth": depth, "num_heads": 1},
        "loss": {"name": loss},
    }
    config = Config.model_validate(sections).model_dump(mode="json")
    torch.manual_seed(seed)
    tagger = build_tagger(config["features"], config["encoder"], labels).eval()
    with torch.no_grad():
        tagger.head.weight.mul_(12.0)
    export_package(folder, weights=tagger.state_dict(), config=config, labels=labels, info={})
    return tagger
