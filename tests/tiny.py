"""Small models that several tests build, saved and compared in a moment."""

from __future__ import annotations

from typing import Any

import torch

from audiotag.config import Config
from audiotag.labels import Label, LabelTable
from audiotag.tagger import Tagger, build_tagger

TINY = {
    "features": {"preset": "ast128", "target_frames": 64},
    "encoder": {
        "name": "ast",
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "freq_stride": 16,
        "time_stride": 16,
    },
}


def tiny_labels(count: int = 3) -> LabelTable:
    """A table of made-up classes."""
    return LabelTable([Label(index, f"/m/{index:03d}", f"class {index}") for index in range(count)])


def tiny_config() -> dict:
    """A whole resolved configuration of a tiny model."""
    return Config.model_validate(TINY).model_dump(mode="json")


def tiny_sections() -> tuple[dict, dict]:
    """The `features` and `encoder` sections of a tiny model."""
    config = tiny_config()
    return config["features"], config["encoder"]


def tiny_tagger(seed: int = 0) -> Tagger:
    """A tiny model with weights from a seed."""
    torch.manual_seed(seed)
    return build_tagger(*tiny_sections(), tiny_labels()).eval()


def tiny_checkpoint(seed: int = 0, epoch: int = 1, best: dict | None = None, **others: Any) -> dict:
    """What a training run would store of a tiny model; other entries take the place of the usual ones."""
    return {
        "model": tiny_tagger(seed).state_dict(),
        "averages": {},
        "optimizer": {},
        "scaler": {},
        "position": {"epoch": epoch, "batch": 0, "step": 10 * epoch, "world_size": 1},
        "best": best,
        "validations": [],
        "metrics": {"mAP": 0.5},
        "config": tiny_config(),
        "labels": tiny_labels().to_rows(),
        "coverage": {},
        "train_data": {"clips": 0, "digest": ""},
        "provenance": {},
        **others,
    }
