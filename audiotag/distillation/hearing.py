"""Having teachers hear every training clip once: block by block, shared out over the processes, resumable.

Shapes: B clips of a batch, C classes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiotag.config import Config
from audiotag.data.dataset import Batch, ClipDataset, Manifest
from audiotag.data.loader import Loader, open_workers
from audiotag.data.loading import Unreadable
from audiotag.data.padding import PaddedRows
from audiotag.data.splits import open_split
from audiotag.distillation.store import ScoreStore
from audiotag.distillation.storedtargets import StoredTargets, rows_of
from audiotag.distillation.teachers import Teachers
from audiotag.distributed import World
from audiotag.errors import ConfigError, DataError, StoppedBySignal
from audiotag.evaluation.scoring import model_inputs
from audiotag.labels import LabelTable
from audiotag.logs import progress
from audiotag.provenance import collect_provenance
from audiotag.training.loaders import training_clips
from audiotag.training.runlock import lock_run
from audiotag.training.signals import StopRequest

logger = logging.getLogger(__name__)

# Clips of a block, the most that each process has to do again after a kill.
BLOCK_CLIPS = 256
BUSY = "another run is making the teachers' scores in {folder}{holder}: wait for it, or stop it"


class HeardClips(ClipDataset):
    """Maps clip positions to a batch of those that can be read; `unreadable` has the ids and reasons of the
    others."""

    def make_batch(self, positions: list[int]) -> Batch:
        """The batch of these clips, which may be empty."""
        found, clips, unreadable = [], [], []
        for position in positions:
            try:
                clips.append(self.read(position))
                found.append(position)
            except Unreadable as error:
                unreadable.append((error.clip_id, error.reason))
        rows = PaddedRows(len(clips))
        for clip in clips:
            rows.add(clip)
        places = torch.tensor(found, dtype=torch.int64)
        return {**self.collate(found, rows), "positions": places, "unreadable": unreadable}


def stored_targets(
    config: Config,
    clips: Manifest,
    data_dir: Path,
    labels: LabelTable,
    teachers: Teachers,
    world: World,
    stop: StopRequest,
) -> StoredTargets:
    """The teachers' scores of all training clips, made now where they are not there yet.

    Args:
        config: the student's configuration.
        clips: what it is trained on.
        data_dir: the recipe's data folder, in which `teacher/` holds the scores.
        labels: the recipe's classes.
        teachers: on the CPU.
        world: the processes.
        stop: tells whether a signal asked to stop.
    """
    if config.features.storage != heard_storage(config, teachers):
        manifest = open_split(data_dir, "train", preset=config.features.preset, storage="on_the_fly")
        features = config.features.model_copy(update={"storage": "on_the_fly"})
        config = config.model_copy(update={"features": features})
        heard = training_clips(config, manifest, data_dir, labels)
    else:
        heard = clips
    store, info = describe_store(config, heard, data_dir, labels, teachers)
    if not world.gather(store.is_complete())[0]:
        with lock_run(store.folder, BUSY) if world.is_main else nullcontext():
            make_scores(store, info, config, heard, teachers, world, stop)
    logger.info("teachers' scores of %d clips: %s", store.num_clips, store.folder)
    scores, ids = store.open()
    section = config.distillation
    return StoredTargets(
        scores,
        rows_of(clips.ids(), ids),
        temperature=section.temperature,
        form=section.form,
        exclusive=teachers.exclusive,
    )


def heard_storage(config: Config, teachers: Teachers) -> str:
    """Where the teachers' features come from: stored ones only where they suit all of them."""
    suits = all(member.preset == config.features.preset for member in teachers.members)
    return config.features.storage if suits else "on_the_fly"


def describe_store(
    config: Config, clips: Manifest, data_dir: Path, labels: LabelTable, teachers: Teachers
) -> tuple[ScoreStore, dict[str, Any]]:
    """Where the scores belong, and what they are made of: another teacher or clip gives another place."""
    heard = hashlib.sha256(np.ascontiguousarray(clips.ids()).tobytes())
    heard.update(np.ascontiguousarray(clips.durations).tobytes())
    info = {
        "teachers": teachers.describe(),
        "clips": {"count": len(clips), "digest": heard.hexdigest()[:32]},
        "classes": [label.mid for label in labels],
        "storage": config.features.storage,
        "amp": config.evaluation.amp,
    }
    key = hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()[:32]
    places = [member.place for member in teachers.members]
    name = places[0].stem + (f"+{len(places) - 1}" if len(places) > 1 else "")
    folder = data_dir / "teacher" / f"{name}-{key[:8]}"
    store = ScoreStore(folder, key, len(clips), len(labels), BLOCK_CLIPS)
    about = {"places": [str(place) for place in places], "provenance": collect_provenance()}
    return store, {**info, **about}


def make_scores(
    store: ScoreStore,
    info: dict[str, Any],
    config: Config,
    clips: Manifest,
    teachers: Teachers,
    world: World,
    stop: StopRequest,
) -> None:
    """Score what is missing of a store; what an earlier run has finished of it is kept."""
    if world.gather(store.is_complete())[0]:  # by a run that had the folder until now
        return
    if world.is_main:
        name = store.folder.name.rsplit("-", 1)[0]
        if others := [path.name for path in store.folder.parent.glob(f"{name}-*") if path != store.folder]:
            logger.info(
                "%s: of other teachers of that name, clips or settings; may be deleted if nothing else "
                "needs them",
                ", ".join(others),
            )
        store.prepare()
    missing = world.gather(store.missing_blocks())[0]
    done = store.num_blocks - len(missing)
    logger.info(
        "teachers hear %d clips in %d blocks, %d of which are done, into %s",
        store.num_clips,
        store.num_blocks,
        done,
        store.folder,
    )
    teachers.to(world.device)
    own = missing[world.rank :: world.size]
    blocks = score_blocks(store, own, config, clips, teachers, world, stop)
    # Block by block together, so that nobody waits long for others, and all stop at once.
    for _ in range(0, len(missing), world.size):
        if (found := next(blocks, None)) is not None:
            store.write_block(*found)
        if names := [name for name in world.gather(stop.name) if name]:
            finished = store.num_blocks - len(store.missing_blocks())
            raise StoppedBySignal(
                f"stopped by {names[0]} after {finished} of {store.num_blocks} blocks of the teachers' "
                "scores; the same command goes on from there"
            )
    teachers.to("cpu")
    if world.is_main:
        check_readable(store, config.data.max_unreadable)
        store.finish(clips.ids(), info)
        store.drop_blocks()
    world.barrier()


def score_blocks(
    store: ScoreStore,
    blocks: list[int],
    config: Config,
    clips: Manifest,
    teachers: Teachers,
    world: World,
    stop: StopRequest,
) -> Iterator[tuple[int, np.ndarray]]:
    """The blocks one by one, with their logits (clips of the block, C); ends early when asked to stop."""
    size = config.evaluation.batch_size
    planned: list[tuple[int, np.ndarray]] = []
    for block in blocks:
        positions = np.array(store.positions(block))
        positions = positions[np.argsort(clips.durations[positions], kind="stable")]  # little padding
        planned += [(block, positions[start : start + size]) for start in range(0, len(positions), size)]
    dataset = HeardClips(clips, storage=config.features.storage, num_classes=store.num_classes)
    items = [positions.tolist() for _, positions in planned]
    loader = Loader(open_workers(dataset, items, config.data.num_workers, world.device.type == "cuda"))
    shown = progress(loader, len(items), "teachers hear", "batch", enabled=world.is_main)
    rows = np.zeros(0, np.float32)
    for number, ((block, _), batch) in enumerate(zip(planned, shown, strict=True)):
        if stop.name is not None:
            return
        if number == 0 or planned[number - 1][0] != block:
            rows = np.full((len(store.positions(block)), store.num_classes), np.nan, np.float32)
        for clip_id, reason in batch["unreadable"]:
            logger.warning("clip %s: %s; it gets no scores, and training takes another", clip_id, reason)
        if batch["ids"]:
            places = batch["positions"].numpy() - store.positions(block)[0]
            rows[places] = said_of(batch, config, teachers, world)
        if number + 1 == len(planned) or planned[number + 1][0] != block:
            yield block, rows


def said_of(batch: Batch, config: Config, teachers: Teachers, world: World) -> np.ndarray:
    """The teachers' logits (B,C) of a batch, whole and unchanged, as in evaluation."""
    frontends = [member.model.tagger.frontend for member in teachers.members]
    heard = [model_inputs(frontend, batch, world.device) for frontend in frontends]
    amp = config.evaluation.amp
    logits = teachers(heard, amp)[0].cpu().numpy()
    bad = np.flatnonzero(np.isnan(logits).any(axis=1))
    if len(bad):
        advice = "set evaluation.amp to bf16 or off" if amp == "fp16" else "take another teacher"
        raise ConfigError(
            f"distillation.teachers: the scores of clip {batch['ids'][bad[0]]} are not finite; {advice}"
        )
    return logits


def check_readable(store: ScoreStore, max_unreadable: float) -> None:
    """Refuse scores that too many clips are without; they are tried again the next time."""
    counts = {block: int(np.isnan(store.read_block(block)[:, 0]).sum()) for block in range(store.num_blocks)}
    total = sum(counts.values())
    if total <= max(max_unreadable * store.num_clips, 1 if max_unreadable > 0 else 0):
        return
    for block, count in counts.items():
        if count:
            store.block_path(block).unlink()
    raise DataError(
        f"{total} of {store.num_clips} clips could not be read, more than data.max_unreadable "
        f"({max_unreadable:g}) allows: restore the files, run the stages from 1 on again with --force, or "
        "raise data.max_unreadable"
    )
