"""Having a model hear every clip once: block by block, shared out over the processes, resumable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from audiotag.config import Config
from audiotag.data.dataset import Batch, ClipDataset
from audiotag.data.inputsample import sample_inputs
from audiotag.data.loader import Loader, open_workers
from audiotag.data.loading import Unreadable
from audiotag.data.padding import PaddedRows
from audiotag.data.rowstore import RowStore
from audiotag.distributed import World
from audiotag.errors import DataError, StoppedBySignal
from audiotag.logs import progress
from audiotag.training.signals import StopRequest
from audiotag.training.turns import take_turn

logger = logging.getLogger(__name__)

# Clips of a block, the most that each process has to do again after a kill.
BLOCK_CLIPS = 256


@dataclass(frozen=True)
class Hearer:
    """A model that hears batches.

    Args:
        hear: a batch to its rows (B,W).
        who: in words, for messages.
        unread: what becomes of a clip that cannot be read, likewise.
        get_ready: called once before the first batch, if there is one to hear.
    """

    hear: Callable[[Batch], np.ndarray]
    who: str
    unread: str
    get_ready: Callable[[], object] = lambda: None


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


def fill_store(
    store: RowStore,
    info: dict[str, Any],
    config: Config,
    dataset: HeardClips,
    hearer: Hearer,
    world: World,
    stop: StopRequest,
) -> None:
    """Make the rows of a store where they are not there yet; what an earlier run has finished is kept, and a
    run that is at it is waited for.

    Args:
        store: where the rows belong.
        info: what they are made of.
        config: says how batches are loaded.
        dataset: of the clips.
        hearer: makes the rows.
        world: the processes.
        stop: tells whether a signal asked to stop.
    """
    inputs = sample_inputs(dataset) if world.is_main else None
    with ExitStack() as held:
        if take_turn(store, inputs, held, world, stop):
            make_rows(store, inputs, info, config, dataset, hearer, world, stop)


def make_rows(
    store: RowStore,
    inputs: np.ndarray | None,
    info: dict[str, Any],
    config: Config,
    dataset: HeardClips,
    hearer: Hearer,
    world: World,
    stop: StopRequest,
) -> None:
    """Make what is missing of a store whose folder the first process holds; see `fill_store`.

    `inputs` is what `sample_inputs` found in the clips; only the first process needs it.
    """
    if world.is_main:
        name = store.folder.name.rsplit("-", 1)[0]
        if others := [path.name for path in store.folder.parent.glob(f"{name}-*") if path != store.folder]:
            logger.info(
                "%s: of other models of that name, clips or settings; may be deleted if nothing else "
                "needs them",
                ", ".join(others),
            )
        store.prepare(inputs)
    hearer.get_ready()
    missing = world.gather(store.missing_blocks())[0]
    done = store.num_blocks - len(missing)
    logger.info(
        "%s %d clips in %d blocks, %d of which are done, into %s",
        hearer.who,
        store.num_clips,
        store.num_blocks,
        done,
        store.folder,
    )
    own = missing[world.rank :: world.size]
    blocks = heard_blocks(store, own, config, dataset, hearer, world, stop)
    # Block by block together, so that nobody waits long for others, and all stop at once.
    for _ in range(0, len(missing), world.size):
        if (found := next(blocks, None)) is not None:
            store.write_block(*found)
        if names := [name for name in world.gather(stop.name) if name]:
            finished = store.num_blocks - len(store.missing_blocks())
            world.leave(
                StoppedBySignal(
                    f"stopped by {names[0]} after {finished} of {store.num_blocks} blocks of "
                    f"{store.kind.what}; the same command goes on from there"
                )
            )
    if world.is_main:
        check_readable(store, config.data.max_unreadable)
        store.finish(dataset.manifest.ids(), info)
        store.drop_blocks()
    world.barrier()


def heard_blocks(
    store: RowStore,
    blocks: list[int],
    config: Config,
    dataset: HeardClips,
    hearer: Hearer,
    world: World,
    stop: StopRequest,
) -> Iterator[tuple[int, np.ndarray]]:
    """The blocks one by one, with their rows (clips of the block, W); ends early when asked to stop."""
    size = config.evaluation.batch_size
    durations = dataset.manifest.durations
    planned: list[tuple[int, np.ndarray]] = []
    for block in blocks:
        positions = np.array(store.positions(block))
        positions = positions[np.argsort(durations[positions], kind="stable")]  # little padding
        planned += [(block, positions[start : start + size]) for start in range(0, len(positions), size)]
    items = [positions.tolist() for _, positions in planned]
    loader = Loader(open_workers(dataset, items, config.data.num_workers, world.device.type == "cuda"))
    shown = progress(loader, len(items), hearer.who, "batch", enabled=world.is_main)
    rows = np.zeros(0, np.float32)
    for number, ((block, _), batch) in enumerate(zip(planned, shown, strict=True)):
        if stop.name is not None:
            return
        if number == 0 or planned[number - 1][0] != block:
            rows = np.full((len(store.positions(block)), store.width), np.nan, np.float32)
        for clip_id, reason in batch["unreadable"]:
            logger.warning("clip %s: %s; %s", clip_id, reason, hearer.unread)
        if batch["ids"]:
            places = batch["positions"].numpy() - store.positions(block)[0]
            rows[places] = hearer.hear(batch)
        if number + 1 == len(planned) or planned[number + 1][0] != block:
            yield block, rows


def check_readable(store: RowStore, max_unreadable: float) -> None:
    """Refuse rows that too many clips are without; they are tried again the next time."""
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
