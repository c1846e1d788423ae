"""Loader processes, and what the training process does with what they hand over."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from audiotag.data.dataset import Batch, ClipDataset, Failure, Manifest, Storage
from audiotag.data.replacing import ReplacementLog
from audiotag.data.trainingset import TrainingDataset
from audiotag.errors import DataError
from audiotag.parents import signal_at_parents_death

logger = logging.getLogger(__name__)


def make_loader(
    manifest: Manifest,
    batches: Sequence[np.ndarray],
    *,
    storage: Storage,
    num_classes: int,
    num_workers: int,
    pin_memory: bool = False,
) -> Loader:
    """An iterable over the batches of an evaluation, with a length.

    Each has `inputs`: waveforms (B,S) or raw stored log-mel (B,T,F), float32, padded with zeros; `lengths`
    (B,) int64 in samples or frames; `labels` (B,C) float32, 0, 1 or NaN; `ids`: list of B strings;
    `positions` (B,) int64 of the clips in the manifest.

    Args:
        manifest: the cuts.
        batches: clip positions of each batch, as `BatchPlan.batches` gives them.
        storage: `stored` reads features, `on_the_fly` reads audio.
        num_classes: C.
        num_workers: processes that load; 0 loads in this one.
        pin_memory: put batches into page-locked memory, for a GPU.
    """
    dataset = ClipDataset(manifest, storage=storage, num_classes=num_classes)
    return Loader(open_workers(dataset, batches, num_workers, pin_memory))


class Loader:
    """Iterates over batches; errors of the loader processes are raised here."""

    def __init__(self, batches: DataLoader) -> None:
        self._batches = batches

    @property
    def dataset(self) -> ClipDataset:
        """What makes the batches."""
        return self._batches.dataset

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        try:
            for batch in self._batches:
                if isinstance(batch, Failure):
                    raise DataError(batch.message)
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a loader process died ({error}): most often the machine's memory is full; lower "
                "data.num_workers or data.batch_size, or ask for more memory"
            ) from None


class TrainingLoader:
    """The training batches of this process, epoch by epoch, loaded by the same processes all the time.

        loader = TrainingLoader(dataset, plan.batches, num_workers=4, max_unreadable=0.01)
        for batch in loader(epoch):

    Args:
        dataset: makes the batches.
        batches: (epoch from 0, number of the first batch) to the clip positions of each batch.
        num_workers: processes that load; 0 loads in this one.
        max_unreadable: largest share of an epoch's clips that may be replaced before it is an error.
        pin_memory: put batches into page-locked memory, for a GPU.
    """

    def __init__(
        self,
        dataset: TrainingDataset,
        batches: Callable[[int, int], Sequence[np.ndarray]],
        *,
        num_workers: int,
        max_unreadable: float,
        pin_memory: bool = False,
    ) -> None:
        self.dataset = dataset
        self._plan = batches
        self._items: list[tuple[int, np.ndarray]] = []
        self._loader = Loader(open_workers(dataset, self._items, num_workers, pin_memory, keep=True))
        self._log = ReplacementLog(max_unreadable)

    def __call__(self, epoch: int, first: int = 0) -> Epoch:
        """The batches of an epoch, from 1, from number `first` on, counted over all processes."""
        return Epoch(epoch, self._plan(epoch - 1, first), self)

    def iterate(self, epoch: int, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        """Load the batches, and take account of what was replaced in them."""
        # The workers live on: what the next epoch is reaches them with its items.
        self._items[:] = [(epoch, positions) for positions in batches]
        self._log.begin(epoch, sum(map(len, batches)))
        for number, batch in enumerate(self._loader, start=1):
            self._log.note(batch["replaced"], batch["num_replaced"])
            if number == len(batches):  # not behind the loop, which whoever counts batches never leaves
                self._log.finish()
            yield batch


class Epoch:
    """Iterates over the batches of one epoch; has a length."""

    def __init__(self, epoch: int, batches: Sequence[np.ndarray], loader: TrainingLoader) -> None:
        self._epoch, self._batches, self._loader = epoch, batches, loader

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return self._loader.iterate(self._epoch, self._batches)


def open_workers(
    dataset: Dataset, items: Sequence[Any], num_workers: int, pin_memory: bool, keep: bool = False
) -> DataLoader:
    """torch's loader over the items, in order; its processes start when it is iterated over.

    Args:
        keep: the processes stay for the next time that it is iterated over.
    """
    if num_workers:
        atexit.unregister(end_workers)
        atexit.register(end_workers)
    return DataLoader(
        dataset,
        sampler=items,
        batch_size=None,
        collate_fn=unchanged,
        num_workers=num_workers,
        pin_memory=pin_memory,
        multiprocessing_context="fork" if num_workers else None,
        persistent_workers=keep and num_workers > 0,
        worker_init_fn=start_worker,
        # A generator of its own: otherwise each pass would move torch's global random state.
        generator=torch.Generator(),
    )


def unchanged(batch: Any) -> Any:
    """Batches leave the dataset finished."""
    return batch


def start_worker(number: int) -> None:
    """What a loader process does first: see to it that it ends when, and only when, its parent does."""
    # Signals often reach all processes of a terminal or a job; the training process, which may still want
    # some batches, stops its workers itself.
    for passed_on in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(passed_on, signal.SIG_IGN)
    # If that happens while a batch is handed over, the thread that does it would print a traceback.
    sys.excepthook = log_quietly
    # Killed, a process cannot stop its workers. torch's own look for it every 5 s, and hold on to what the
    # dead one had of the GPU's memory until then.
    signal_at_parents_death(signal.SIGKILL)


def end_workers() -> None:
    """At this process' end, kill loader processes that are still there, as they are after an error: Python
    would send them SIGTERM, which they ignore, and wait."""
    # torch's handler takes the death of a worker for an error.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def log_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An error of a loader process' side threads, for those who want to know."""
    logger.debug("in a loader process", exc_info=(kind, error, trace))
