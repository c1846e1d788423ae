"""Teachers' scores on disk: a row of float16 logits for each training clip, memory-mapped when it is read.

A store is a folder:
    scores.npy    (N,C) float16: logits, or log odds where the teachers' classes exclude each other; NaN for a
                  clip that could not be read
    ids.npy       (N,) ids of the clips as UTF-8 bytes
    store.json    what the scores were made of, and the key that stands for it; written last
    blocks/       while it is being made: the finished blocks of rows, each a file of its own

Logits beyond the range of float16 are kept as its largest number, 65504. Its 11 binary digits are enough: a
logit of 8 is off by at most 0.004.

Shapes: N clips, C classes.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiotag.atomic import atomic_write
from audiotag.data.stagefiles import parse_object
from audiotag.errors import DataError, StorageError

FORMAT = "audiotag-teacher-scores"
VERSION = 1
LARGEST = float(np.finfo(np.float16).max)
BYTES = np.dtype(np.float16).itemsize


@dataclass(frozen=True)
class ScoreStore:
    """The scores of some clips, whole or in the making.

    Args:
        folder: where it lies.
        key: stands for all that the scores depend on.
        num_clips, num_classes: N and C.
        block_clips: clips of a block, the last of which may have fewer.
    """

    folder: Path
    key: str
    num_clips: int
    num_classes: int
    block_clips: int

    @property
    def num_blocks(self) -> int:
        """Blocks that the clips make."""
        return -(-self.num_clips // self.block_clips)

    def positions(self, block: int) -> range:
        """Positions of a block's clips."""
        first = block * self.block_clips
        return range(first, min(first + self.block_clips, self.num_clips))

    def is_complete(self) -> bool:
        """Whether all scores are there."""
        path = self.folder / "store.json"
        try:
            description = parse_object(path.read_bytes())
        except FileNotFoundError:
            return False
        except ValueError as error:
            raise damaged(path, error, self.folder) from None
        if description.get("key") != self.key:
            raise damaged(path, "its key is not the folder's", self.folder)
        return True

    def missing_blocks(self) -> list[int]:
        """Blocks that are still to be made."""
        return [block for block in range(self.num_blocks) if not self.block_path(block).is_file()]

    def block_path(self, block: int) -> Path:
        """The file of a block."""
        return self.folder / "blocks" / f"{block}.npy"

    def write_block(self, block: int, logits: NDArray[np.floating]) -> None:
        """Keep the rows of a block."""
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            rows = np.clip(logits, -LARGEST, LARGEST).astype(np.float16)
        with atomic_write(self.block_path(block), "wb") as file:
            np.save(file, rows)

    def read_block(self, block: int) -> NDArray[np.float16]:
        """The rows of a finished block."""
        path = self.block_path(block)
        try:
            rows = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise damaged(path, error, path) from None
        expected = (len(self.positions(block)), self.num_classes)
        if rows.shape != expected or rows.dtype != np.float16:
            raise damaged(path, f"expected {expected} float16, found {rows.shape} {rows.dtype}", path)
        return rows

    def prepare(self) -> None:
        """Remove what a killed run left half written, and refuse to begin what the disk cannot hold: for a
        moment all rows are there twice."""
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        rows = self.num_clips + self.block_clips * len(self.missing_blocks())
        needed, free = rows * self.num_classes * BYTES, shutil.disk_usage(self.folder).free
        if needed > free:
            raise StorageError(
                f"the teachers' scores of {self.num_clips} clips need {needed / 1e9:.2f} GB in "
                f"{self.folder}, where {free / 1e9:.2f} GB are free: free some, or make its parent a link to "
                "another disk"
            )

    def finish(self, ids: NDArray[np.bytes_], info: dict[str, Any]) -> None:
        """Join the blocks, all of which must be there."""
        header = {"descr": "<f2", "fortran_order": False, "shape": (self.num_clips, self.num_classes)}
        with atomic_write(self.folder / "scores.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in range(self.num_blocks):
                file.write(self.read_block(block).tobytes())
        with atomic_write(self.folder / "ids.npy", "wb") as file:
            np.save(file, np.asarray(ids))
        with atomic_write(self.folder / "store.json") as file:
            json.dump({"format": FORMAT, "version": VERSION, "key": self.key, **info}, file, indent=2)

    def drop_blocks(self) -> None:
        """Remove what is no longer needed once all is joined."""
        shutil.rmtree(self.folder / "blocks", ignore_errors=True)

    def open(self) -> tuple[NDArray[np.float16], NDArray[np.bytes_]]:
        """The scores (N,C), memory-mapped, and the ids (N,)."""
        path = self.folder / "scores.npy"
        try:
            scores = np.load(path, mmap_mode="r", allow_pickle=False)
            ids = np.load(self.folder / "ids.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise damaged(path, error, self.folder) from None
        if scores.shape != (self.num_clips, self.num_classes) or len(ids) != self.num_clips:
            raise damaged(path, f"it has shape {scores.shape} and {len(ids)} ids", self.folder)
        return scores, ids


def damaged(path: Path, reason: Exception | str, to_delete: Path) -> DataError:
    """The error for a file that cannot be used."""
    return DataError(f"{path} is damaged ({reason}): delete {to_delete} and run the same command again")
