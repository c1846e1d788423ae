"""Finding where an interrupted run stopped, and refusing to go on with another configuration."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.configfile import validate
from audiotag.data.index import IndexedManifest
from audiotag.distributed import World
from audiotag.errors import CheckpointError, ConfigError
from audiotag.stagekeys import RUNTIME_KEYS
from audiotag.training.checkpoint import (
    DamagedCheckpoint,
    epoch_path,
    list_epochs,
    list_steps,
    load_checkpoint,
    step_path,
)

logger = logging.getLogger(__name__)

# Keys that may change between two parts of a run without making it another experiment.
FREE_KEYS = (
    *RUNTIME_KEYS,
    "title",
    "evaluation",
    "corpus.dir",
    "augment.noise.dir",
    "training.epochs",
    "training.patience",
    "training.validate_every_epochs",
    "training.validate_every_steps",
)
# The first follows from the second, where that is given, and from the number of processes.
ACCUMULATE, PER_UPDATE = "training.accumulate", "training.batches_per_update"
# What a run writes, which moves when another begins in its place; the driver's log and locks stay.
STAYS = ("log", ".lock", ".lock.d", ".run.lock")


def find_checkpoint(exp_dir: Path, resume: str, world: World) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint to go on from, and its path: the same on every process; None to begin.

    Args:
        exp_dir: the run's folder.
        resume: `auto` for its newest readable checkpoint, or a file.
        world: the processes.
    """
    if resume != "auto":
        path = Path(resume)
        state = load_checkpoint(path)
        if "averaged" in state or not state["optimizer"]:
            raise CheckpointError(
                f"{path} holds averaged weights, without what training needs to go on: name an "
                "epoch-<n>.pt or step-<n>.pt"
            )
        logger.info("resuming from %s", path)
        return path, state
    # One process chooses: a file system may show others an older list.
    path, state = newest_checkpoint(exp_dir) if world.is_main else (None, None)
    path = world.gather(path)[0]
    if path is not None and state is None:
        state = load_checkpoint(path)
    return path, state


def newest_checkpoint(exp_dir: Path) -> tuple[Path | None, dict[str, Any] | None]:
    """The newest readable checkpoint, or None where there is no file; damaged ones are named and passed
    over."""
    for path, state in newest_first(exp_dir):
        logger.info("resuming from %s", path)
        return path, state
    if list_epochs(exp_dir) or list_steps(exp_dir):
        # To begin anew would overwrite what somebody may still be able to mend.
        raise CheckpointError(
            f"{exp_dir}: none of its checkpoints can be read; start it afresh with --restart (the old files "
            "are kept beside it), or take another --tag"
        )
    return None, None


def newest_first(exp_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The readable checkpoints by their number of updates, as far as they are asked for."""
    epochs, steps = list_epochs(exp_dir), list_steps(exp_dir)
    waiting: tuple[Path, dict[str, Any]] | None = None
    while epochs or waiting or steps:
        if waiting is None and epochs:
            # How many updates an epoch had, only its file tells.
            waiting = read_or_pass_over(epoch_path(exp_dir, epochs.pop()))
            continue
        if waiting is not None and (not steps or waiting[1]["position"]["step"] >= steps[-1]):
            yield waiting
            waiting = None
        elif found := read_or_pass_over(step_path(exp_dir, steps.pop())):
            yield found


def read_or_pass_over(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """A checkpoint, or None, with a warning, where it is damaged."""
    try:
        return path, load_checkpoint(path)
    except DamagedCheckpoint as error:
        logger.warning("%s; looking for an earlier one", error)
        return None


def check_same_run(
    state: dict[str, Any], record: dict[str, Any], exp_dir: Path, world_size: int, *, allow_changes: bool
) -> None:
    """Refuse to go on from a checkpoint of another configuration, other labels or other clips.

    Args:
        state: the checkpoint.
        record: what the checkpoints of this run will carry.
        exp_dir: its folder, for messages.
        world_size: number of processes now.
        allow_changes: let another configuration pass.
    """
    advice = "take another --tag, or start it afresh with --restart (the old run is kept beside it)"
    check_config(state["config"], record["config"], exp_dir, advice, allow_changes)
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
    before, now = state.get("class_weights"), record["class_weights"]
    if before is not None and not np.allclose(before, now, rtol=1e-5) and not allow_changes:
        raise ConfigError(
            f"{exp_dir} was trained with other weights of the classes in the loss (loss.class_weights names "
            f"the same, but its file or the counts have changed); {advice}, or go on all the same with "
            "--allow-changes"
        )
    if state.get("teachers") != record.get("teachers"):
        what = f"{exp_dir} was trained with other teachers than distillation.teachers are now"
        if not allow_changes:
            raise ConfigError(f"{what}; {advice}, or go on all the same with --allow-changes")
        logger.warning("%s", what)
    if state["position"]["world_size"] != world_size:
        batches = record["config"]["training"]["batches_per_update"]
        logger.log(
            logging.WARNING if batches is None else logging.INFO,
            "trained by %d processes so far, by %d from here: the effective batch %s",
            state["position"]["world_size"],
            world_size,
            "changes by the same factor" if batches is None else f"stays at {batches} batches",
        )


def fingerprint(manifest: IndexedManifest) -> dict[str, Any]:
    """What a run is trained on: number of clips, and a hash of their ids and labels in order."""
    digest = hashlib.sha256()
    for column in (
        manifest.ids(),
        manifest.label_starts,
        manifest.label_ids,
        *manifest.unlabelled_columns(),
    ):
        digest.update(np.ascontiguousarray(column).tobytes())
    return {"clips": len(manifest), "digest": digest.hexdigest()[:32]}


def check_config(
    stored: dict[str, Any], current: dict[str, Any], exp_dir: Path, advice: str, allow_changes: bool
) -> None:
    """Compare configurations: log all changes, refuse those that make it another run."""
    # Keys that came with a newer version take their defaults.
    before = flatten(validate(stored, {}, f"the checkpoint in {exp_dir}").model_dump(mode="json"))
    now = flatten(current)
    changes = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    for key in changes:
        logger.info("changed since the checkpoint: %s was %r, is %r", key, before.get(key), now.get(key))
    free = ACCUMULATE if now[PER_UPDATE] is not None and before[PER_UPDATE] == now[PER_UPDATE] else None
    refused = [key for key in changes if not is_free(key) and key != free]
    if refused and not allow_changes:
        listed = ", ".join(f"{key} ({before.get(key)!r} -> {now.get(key)!r})" for key in refused[:5])
        listed += f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise ConfigError(
            f"{exp_dir} was trained with another configuration: {listed}; {advice}, or go on "
            "all the same with --allow-changes"
        )


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
    items = [item for item in exp_dir.iterdir() if item.name not in STAYS]
    return move_to_new_folder(items, exp_dir.with_name(f"{exp_dir.name}.old")) if items else None


def set_aside_newer(exp_dir: Path, step: int) -> Path | None:
    """Move the checkpoints behind an update out of the way, to `superseded-<n>`; None when there are none."""
    behind = takewhile(lambda found: found[1]["position"]["step"] > step, newest_first(exp_dir))
    newer = [path for path, _ in behind]
    return move_to_new_folder(newer, exp_dir / "superseded") if newer else None


def move_to_new_folder(items: list[Path], base: Path) -> Path:
    """Move files into the first of `<base>-1`, `<base>-2`, ... that is free."""
    number = 1
    while (target := base.with_name(f"{base.name}-{number}")).exists():
        number += 1
    target.mkdir()
    for item in items:
        item.rename(target / item.name)
    return target
