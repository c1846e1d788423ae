"""From clip positions to batches of tensors: the part that runs inside of loader processes.

A worker receives arrays of integers and reads the cuts itself through the index, which all of them share.
This is evaluation's part, where every clip counts; `trainingset.py` builds on it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from audiotag.data.chance import Chance
from audiotag.data.crop import load_stretch
from audiotag.data.padding import PaddedRows
from audiotag.errors import DataError
from audiotag.frontend import FRAME_SHIFT, SAMPLING_RATE

logger = logging.getLogger(__name__)

FRAMES_PER_SECOND = SAMPLING_RATE // FRAME_SHIFT

Batch = dict[str, Any]
Storage = Literal["stored", "on_the_fly"]


class Manifest(Protocol):
    """What batches are made from: an `IndexedManifest`, or several mixed (`MixedManifest`)."""

    durations: np.ndarray
    label_ids: np.ndarray
    label_starts: np.ndarray
    unlabelled_ids: np.ndarray
    paths: list[Path]

    def __len__(self) -> int: ...
    def labels(self, index: int) -> np.ndarray: ...
    def unlabelled(self, index: int) -> np.ndarray: ...
    def id(self, index: int) -> str: ...
    def record(self, index: int) -> dict[str, Any]: ...


class ClipEmbeddings(Protocol):
    """What a frozen encoder makes of clips, such as `StoredEmbeddings`."""

    def __call__(self, position: int, clip_id: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Failure:
    """An error that a worker hands over: raised there, it would come with the worker's traceback."""

    message: str


class ClipDataset(Dataset):
    """Maps an array of clip positions to a batch of these clips, whole; one that cannot be read is an error.

    Once `embeddings` is set, `inputs` (B,D) are those of a frozen encoder, and `lengths` is None.

    Args:
        manifest: the cuts.
        storage: `stored` reads features, `on_the_fly` reads audio.
        num_classes: C, the width of the labels.
        length_multiple_s: batches are padded to a multiple of this; None for the longest clip of each.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        storage: Storage,
        num_classes: int,
        length_multiple_s: float | None = None,
    ) -> None:
        check_labels(manifest, num_classes)
        self.manifest = manifest
        self.stored = storage == "stored"
        self.num_classes = num_classes
        per_second = FRAMES_PER_SECOND if self.stored else SAMPLING_RATE
        self.length_multiple = max(1, round((length_multiple_s or 0.0) * per_second))
        self.has_unlabelled = len(manifest.unlabelled_ids) > 0
        self.embeddings: ClipEmbeddings | None = None

    def __getitem__(self, item: Any) -> Batch | Failure:
        try:
            return self.make_batch(item)
        except DataError as error:
            return Failure(str(error))
        except Exception as error:
            logger.debug("a batch failed", exc_info=True)
            return Failure(f"batch {item}: {type(error).__name__}: {error}")

    def make_batch(self, positions: Sequence[int]) -> Batch:
        """The batch of these clips."""
        rows = PaddedRows(len(positions), self.length_multiple)
        for position in positions:
            rows.add(self.read(position))
        return {**self.collate(positions, rows), "positions": torch.tensor(positions, dtype=torch.int64)}

    def read(self, position: int, longest_s: float | None = None, chance: Chance | None = None) -> np.ndarray:
        """Samples (S,) or features (T,F) of a clip, or of a random stretch of it, or its embedding (D,);
        errors name the clip."""
        if self.embeddings is not None:
            return self.embeddings(position, self.manifest.id(position))
        return self.read_by(load_stretch, position, longest_s=longest_s, chance=chance)

    def read_by(self, load: Callable[..., np.ndarray], position: int, **options: Any) -> np.ndarray:
        """What a function of `data/crop.py` reads of a clip; errors name the clip."""
        try:
            return load(self.manifest.record(position), stored=self.stored, **options)
        except DataError:
            raise
        except Exception as error:
            logger.debug("clip %s failed", self.manifest.id(position), exc_info=True)
            raise DataError(f"clip {self.manifest.id(position)}: {type(error).__name__}: {error}") from None

    def collate(self, positions: Sequence[int], rows: PaddedRows) -> Batch:
        """The batch of clips that have been read."""
        inputs, lengths = rows.finish()
        return {
            "inputs": inputs,
            "lengths": lengths if self.embeddings is None else None,
            "labels": self.multi_hot(positions),
            "ids": [self.manifest.id(position) for position in positions],
        }

    def multi_hot(self, positions: Sequence[int]) -> torch.Tensor:
        """Labels (B,C) of some clips, 0 or 1, or NaN where it is not known; float32."""
        labels = np.zeros((len(positions), self.num_classes), dtype=np.float32)
        for row, position in enumerate(positions):
            if self.has_unlabelled:
                labels[row, self.manifest.unlabelled(position)] = np.nan
            labels[row, self.manifest.labels(position)] = 1.0
        return torch.from_numpy(labels)


def check_labels(manifest: Manifest, num_classes: int) -> None:
    """Every class index of the manifest must exist in the label table."""
    largest = int(manifest.label_ids.max(initial=-1))
    if largest >= num_classes:
        place = int(manifest.label_ids.argmax())
        clip = int(np.searchsorted(manifest.label_starts, place, side="right")) - 1
    else:
        largest = int(manifest.unlabelled_ids.max(initial=-1))
        if largest < num_classes:
            return
        clip = next(clip for clip in range(len(manifest)) if largest in manifest.unlabelled(clip))
    raise DataError(
        f"clip {manifest.id(clip)} of {manifest.paths[0].parent} has class {largest}, but there are "
        f"{num_classes} labels: labels.csv is not the one these manifests were made with; run stage 1 again"
    )
