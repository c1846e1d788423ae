"""The scores of a set of clips: what metrics, plots and ensembles read, kept in one npz file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audiotag.arrayfiles import read_arrays
from audiotag.atomic import atomic_write
from audiotag.errors import DataError

ARRAYS = ("ids", "logits", "labels")
UNKNOWN = 255  # in the file's uint8 labels: it is not known whether the clip has the class


@dataclass
class Scores:
    """Logits and labels of N clips and C classes, row by row with the clips' ids.

    ids: N distinct clip ids; logits: (N,C), kept as float32; labels: (N,C), NaN where it is not known
    whether the clip has the class; kept as uint8 where they are all 0 or 1, else as float32. The file has
    uint8 also where some are unknown.
    """

    ids: list[str]
    logits: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        self.ids = [str(clip_id) for clip_id in self.ids]
        self.logits = np.asarray(self.logits, dtype=np.float32)
        self.labels = compact(np.asarray(self.labels))
        if self.logits.ndim != 2 or self.logits.shape != self.labels.shape:
            raise DataError(
                f"scores: logits and labels must have the same shape (clips, classes), "
                f"found {self.logits.shape} and {self.labels.shape}"
            )
        if len(self.ids) != len(self.logits):
            raise DataError(f"scores: {len(self.ids)} ids for {len(self.logits)} rows of logits")
        if len(set(self.ids)) != len(self.ids):
            raise DataError(f"scores: clip '{first_repeated(self.ids)}' occurs more than once")

    def save(self, path: Path | str) -> None:
        """Write the npz file, whole or not at all."""
        with atomic_write(path, "wb") as file:
            np.savez(
                file, ids=np.array(self.ids, dtype=np.str_), logits=self.logits, labels=packed(self.labels)
            )

    @classmethod
    def load(cls, path: Path | str) -> Scores:
        """Read what `save` wrote; a DataError names the file and what is wrong with it."""
        path = Path(path)
        try:
            ids, logits, labels = read_arrays(path, *ARRAYS)
            return cls(ids.tolist(), logits, unpacked(labels))
        except FileNotFoundError:
            raise DataError(f"score file not found: {path}; stage 6 makes it") from None
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        # TypeError: whole arrays that are of something else.
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: not a score file, or damaged ({error}); run stage 6 again") from None


def compact(labels: np.ndarray) -> np.ndarray:
    """Labels as uint8 when that loses nothing, else as float32."""
    hard = labels.astype(bool)
    return hard.astype(np.uint8) if np.array_equal(hard, labels) else labels.astype(np.float32)


def packed(labels: np.ndarray) -> np.ndarray:
    """Labels for the file: unknown ones as 255 in uint8 when all others are 0 or 1."""
    unknown = np.isnan(labels)
    if not unknown.any():
        return labels
    known = compact(np.where(unknown, 0, labels))
    return np.where(unknown, np.uint8(UNKNOWN), known) if known.dtype == np.uint8 else labels


def unpacked(labels: np.ndarray) -> np.ndarray:
    """The inverse of `packed`."""
    if labels.dtype != np.uint8 or not (unknown := labels == UNKNOWN).any():
        return labels
    return np.where(unknown, np.float32(np.nan), labels.astype(np.float32))


def first_repeated(ids: list[str]) -> str:
    """The first id that occurs a second time."""
    seen: set[str] = set()
    return next(clip_id for clip_id in ids if clip_id in seen or seen.add(clip_id))
