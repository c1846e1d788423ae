"""From batches of clip positions to batches of tensors, in this process or in workers.

Workers receive arrays of integers and read the cuts themselves through the index, which all of them share.
A batch depends on (seed, epoch, rank, its clips) only, not on which worker makes it or when.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio, load_features
from audiotag.errors import DataError

Batch = dict[str, Any]
Storage = Literal["stored", "on_the_fly"]


@dataclass(frozen=True)
class Failure:
    """An error that a worker hands over: raised there, it would come with the worker's traceback."""

    message: str


class ClipDataset(Dataset):
    """Maps an array of clip positions to a batch; see `make_loader` for the arguments."""

    def __init__(
        self,
        manifest: IndexedManifest,
        *,
        storage: Storage,
        num_classes: int,
        seed: int,
        epoch: int,
        rank: int,
        noise: Callable[..., np.ndarray] | None,
    ) -> None:
        self.manifest = manifest
        self.stored = storage == "stored"
        self.num_classes = num_classes
        self.random_key = (seed, epoch, rank)
        self.noise = noise

    def __getitem__(self, positions: np.ndarray) -> Batch | Failure:
        try:
            return self.load_batch(np.asarray(positions, dtype=np.int64))
        except DataError as error:
            return Failure(str(error))

    def load_batch(self, positions: np.ndarray) -> Batch:
        """The batch of these clips."""
        load = load_features if self.stored else load_audio
        clips = [load(self.manifest.record(position)) for position in positions]
        if self.noise is not None:
            # The clips of a batch name it: a resumed run counts batches differently, other numbers of
            # workers deal them out differently.
            name = zlib.crc32(positions.tobytes())
            for place, clip in enumerate(clips):
                rng = np.random.default_rng(np.random.SeedSequence((*self.random_key, name, place)))
                clips[place] = self.noise(clip, rng, stored=self.stored)
        labels = np.zeros((len(positions), self.num_classes), dtype=np.float32)
        for row, position in enumerate(positions):
            labels[row, self.manifest.labels(position)] = 1.0
        return {
            "inputs": pad(clips),
            "lengths": torch.tensor([len(clip) for clip in clips], dtype=torch.int64),
            "labels": torch.from_numpy(labels),
            "ids": [self.manifest.id(position) for position in positions],
        }


class Loader:
    """Iterates over batches; see `make_loader`."""

    def __init__(self, batches: DataLoader) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            if isinstance(batch, Failure):
                raise DataError(batch.message)
            yield batch


def make_loader(
    manifest: IndexedManifest,
    batches: Sequence[np.ndarray],
    *,
    storage: Storage,
    num_classes: int,
    num_workers: int,
    seed: int,
    epoch: int,
    rank: int,
    pin_memory: bool = False,
    noise: Callable[..., np.ndarray] | None = None,
) -> Loader:
    """An iterable over batch dictionaries, with a length.

    Each has `inputs`: waveforms (B,S) or raw stored log-mel (B,T,F), float32, padded with zeros; `lengths`
    (B,) int64 in samples or frames; `labels` (B,C) float32, 0 or 1; `ids`: list of B strings.

    Args:
        manifest: the cuts.
        batches: clip positions of each batch, as `BatchPlan.batches` gives them, or a later part of them.
        storage: `stored` reads features, `on_the_fly` reads audio.
        num_classes: C.
        num_workers: processes that load; 0 loads in this one.
        seed, epoch, rank: all random choices derive from them.
        pin_memory: put batches into page-locked memory, for a GPU.
        noise: changes a clip; called with (clip, generator, stored=...). See `NoiseMixer`.
    """
    check_labels(manifest, num_classes)
    dataset = ClipDataset(
        manifest,
        storage=storage,
        num_classes=num_classes,
        seed=seed,
        epoch=epoch,
        rank=rank,
        noise=noise,
    )
    return Loader(
        DataLoader(
            dataset,
            sampler=batches,
            batch_size=None,
            collate_fn=unchanged,
            num_workers=num_workers,
            pin_memory=pin_memory,
            multiprocessing_context="fork" if num_workers else None,
            # A generator of its own: otherwise each pass would move torch's global random state.
            generator=torch.Generator().manual_seed(seed),
        )
    )


def unchanged(batch: Any) -> Any:
    """Batches leave the dataset finished."""
    return batch


def pad(clips: list[np.ndarray]) -> torch.Tensor:
    """Clips (L,) or (L,F) of different lengths as one tensor, zeros behind the shorter ones."""
    longest = max(len(clip) for clip in clips)
    padded = np.zeros((len(clips), longest, *clips[0].shape[1:]), dtype=np.float32)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    return torch.from_numpy(padded)


def check_labels(manifest: IndexedManifest, num_classes: int) -> None:
    """Every class index of the manifest must exist in the label table."""
    largest = int(manifest.label_ids.max(initial=-1))
    if largest < num_classes:
        return
    place = int(manifest.label_ids.argmax())
    clip = int(np.searchsorted(manifest.label_starts, place, side="right")) - 1
    raise DataError(
        f"clip {manifest.id(clip)} of {manifest.paths[0].parent} has class {largest}, but there are "
        f"{num_classes} labels: labels.csv is not the one these manifests were made with; run stage 1 again"
    )
