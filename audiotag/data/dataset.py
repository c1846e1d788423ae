"""From clip positions to batches of tensors: the part that runs inside of loader processes.

A worker receives arrays of integers and reads the cuts itself through the index, which all of them share.
This is evaluation's part, where every clip counts; `trainingset.py` builds on it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
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

logger = logging.getLogger(__name__)

Batch = dict[str, Any]
Storage = Literal["stored", "on_the_fly"]


class Manifest(Protocol):
    """What batches are made from: an `IndexedManifest`, or several mixed (`MixedManifest`)."""

    durations: np.ndarray
    label_ids: np.ndarray
    label_starts: np.ndarray
    paths: list[Path]

    def __len__(self) -> int: ...
    def labels(self, index: int) -> np.ndarray: ...
    def id(self, index: int) -> str: ...
    def record(self, index: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Failure:
    """An error that a worker hands over: raised there, it would come with the worker's traceback."""

    message: str


class ClipDataset(Dataset):
    """Maps an array of clip positions to a batch of these clips, whole; one that cannot be read is an error.

    Args:
        manifest: the cuts.
        storage: `stored` reads features, `on_the_fly` reads audio.
        num_classes: C, the width of the labels.
    """

    def __init__(self, manifest: Manifest, *, storage: Storage, num_classes: int) -> None:
        check_labels(manifest, num_classes)
        self.manifest = manifest
        self.stored = storage == "stored"
        self.num_classes = num_classes

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
        rows = PaddedRows(len(positions))
        for position in positions:
            rows.add(self.read(position))
        return self.collate(positions, rows)

    def read(self, position: int, longest_s: float | None = None, chance: Chance | None = None) -> np.ndarray:
        """Samples (S,) or features (T,F) of a clip, or of a random stretch of it; errors name the clip."""
        try:
            return load_stretch(
                self.manifest.record(position), stored=self.stored, longest_s=longest_s, chance=chance
            )
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
            "lengths": lengths,
            "labels": self.multi_hot(positions),
            "ids": [self.manifest.id(position) for position in positions],
        }

    def multi_hot(self, positions: Sequence[int]) -> torch.Tensor:
        """Labels (B,C) of some clips, 0 or 1, float32."""
        labels = np.zeros((len(positions), self.num_classes), dtype=np.float32)
        for row, position in enumerate(positions):
            labels[row, self.manifest.labels(position)] = 1.0
        return torch.from_numpy(labels)


def check_labels(manifest: Manifest, num_classes: int) -> None:
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
