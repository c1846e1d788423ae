"""`data.max_duration_s: auto` over the life of a run: looked for once, and kept as long as it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audiotag.config import Config
from audiotag.data.index import IndexedManifest
from audiotag.distributed import World
from audiotag.labels import LabelTable
from audiotag.training.autobatch import largest_duration
from audiotag.training.loaders import padded_durations, training_clips

# Keys of `training` that decide, beside the model and the optimiser, how much memory a batch takes.
MEMORY_KEYS = ("amp", "compile", "activation_checkpointing", "ema", "running_average", "swa")


def fix_batch_limit(
    config: Config,
    state: dict[str, Any] | None,
    manifest: IndexedManifest,
    data_dir: Path,
    labels: LabelTable,
    world: World,
) -> Config:
    """With `data.max_duration_s: auto`, put in the number that the run began with, or find it."""
    if config.data.max_duration_s != "auto":
        return config
    limit = state["config"]["data"]["max_duration_s"] if state else None
    if limit is None or needs_other_memory(state["config"], config.model_dump(mode="json")):
        clips = training_clips(config, manifest, data_dir, labels)
        limit = largest_duration(config, padded_durations(config, clips), len(labels), world)
    return config.model_copy(update={"data": config.data.model_copy(update={"max_duration_s": limit})})


def needs_other_memory(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a configuration may take another amount of memory for the same batches."""
    keys = [(section, key) for section in ("features", "encoder") for key in now[section]]
    keys += [("optimizer", "name"), *(("training", key) for key in MEMORY_KEYS)]
    # A key that the checkpoint lacks is newer than it, and changed nothing then.
    return any(key in before[section] and before[section][key] != now[section][key] for section, key in keys)
