"""Finding where an interrupted run stopped, and refusing to go on with another configuration."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.configfile import validate
from audiotag.data.index import IndexedManifest
from audiotag.errors import CheckpointError, ConfigError
from audiotag.stagekeys import RUNTIME_KEYS
from audiotag.training.checkpoint import epoch_path, list_epochs, load_checkpoint

logger = logging.getLogger(__name__)

# Keys that may change between two parts of a run without making it another experiment.
FREE_KEYS = (*RUNTIME_KEYS, "title", "evaluation", "corpus.dir", "augment.noise.dir", "training.epochs")


def newest_checkpoint(exp_dir: Path) -> dict[str, Any] | None:
    """The newest readable epoch checkpoint, or None; damaged ones are named and passed over."""
    for epoch in reversed(list_epochs(exp_dir)):
        path = epoch_path(exp_dir, epoch)
        try:
            state = load_checkpoint(path)
        except CheckpointError as error:
            logger.warning("%s; trying the one before", error)
            continue
        logger.info("resuming from %s", path)
        return state
    return None


def check_same_run(state: dict[str, Any], record: dict[str, Any], exp_dir: Path, world_size: int) -> None:
    """Refuse to go on from a checkpoint of another configuration, other labels or other clips.

    Args:
        state: the checkpoint.
        record: what the checkpoints of this run will carry.
        exp_dir: its folder, for messages.
        world_size: number of processes now.
    """
    advice = "take another --tag, or start it afresh with --restart (the old run is kept beside it)"
    check_config(state["config"], record["config"], exp_dir, advice)
    if state["labels"] != record["labels"]:
        raise ConfigError(f"{exp_dir} was trained with another list of labels; {advice}")
    for name, where in (("train_data", ""), ("mixed_data", " in data.sources")):
        before, now = state.get(name), record.get(name)
        if before != now:
            then, today = (clips["clips"] if clips else "none" for clips in (before, now))
            raise ConfigError(
                f"{exp_dir} was trained on other clips{where} or other labels of them ({then} then, "
                f"{today} now); {advice}"
            )
    if state["position"]["world_size"] != world_size:
        logger.warning(
            "trained by %d processes so far, by %d from here: the effective batch changes by the same factor",
            state["position"]["world_size"],
            world_size,
        )


def fingerprint(manifest: IndexedManifest) -> dict[str, Any]:
    """What a run is trained on: number of clips, and a hash of their ids and labels in order."""
    digest = hashlib.sha256()
    for column in (manifest.ids(), manifest.label_starts, manifest.label_ids):
        digest.update(np.ascontiguousarray(column).tobytes())
    return {"clips": len(manifest), "digest": digest.hexdigest()[:32]}


def check_config(stored: dict[str, Any], current: dict[str, Any], exp_dir: Path, advice: str) -> None:
    """Compare configurations: log all changes, refuse those that make it another run."""
    # Keys that came with a newer version take their defaults.
    before = flatten(validate(stored, {}, f"the checkpoint in {exp_dir}").model_dump(mode="json"))
    now = flatten(current)
    changes = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    for key in changes:
        logger.info("changed since the checkpoint: %s was %r, is %r", key, before.get(key), now.get(key))
    refused = [key for key in changes if not is_free(key)]
    if refused:
        listed = ", ".join(f"{key} ({before.get(key)!r} -> {now.get(key)!r})" for key in refused[:5])
        raise ConfigError(f"{exp_dir} was trained with another configuration: {listed}; {advice}")


def is_free(key: str) -> bool:
    """Whether a dotted key belongs to those that may change."""
    return any(key == free or key.startswith(free + ".") for free in FREE_KEYS)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def set_aside(exp_dir: Path) -> Path | None:
    """Move a finished or broken run out of the way, to `<exp>.old-<n>`; None when there is nothing."""
    # The driver is writing its log there, and holds its lock, while this runs.
    items = [item for item in exp_dir.iterdir() if item.name not in ("log", ".lock", ".lock.d")]
    if not items:
        return None
    number = 1
    while (target := exp_dir.with_name(f"{exp_dir.name}.old-{number}")).exists():
        number += 1
    target.mkdir()
    for item in items:
        item.rename(target / item.name)
    return target
