"""Something of every clip on disk: a row of numbers for each, memory-mapped when it is read.

A store is a folder:
    <name>.npy    (N,W) numbers; NaN for a clip that could not be read
    ids.npy       (N,) ids of the clips as UTF-8 bytes
    store.json    what the rows were made of, and the key that stands for it; written last
    blocks/       while it is being made: the finished blocks of rows, each a file of its own

Numbers beyond the range of their type are kept as its largest.

Shapes: N clips, W numbers of a clip.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from audiotag.atomic import atomic_write
from audiotag.data.stagefiles import parse_object
from audiotag.errors import DataError, StorageError

VERSION = 1


@dataclass(frozen=True)
class RowKind:
    """What the rows of a store are.

    Args:
        what: in words, for messages.
        name: of their file.
        format: what store.json says that it is.
        dtype: of the numbers: float16 or float32.
    """

    what: str
    name: str
    format: str
    dtype: str


class Listed(Protocol):
    """Clips with ids and durations, such as an `IndexedManifest`."""

    durations: NDArray[np.float32]

    def __len__(self) -> int: ...
    def ids(self) -> NDArray[np.bytes_]: ...


def describe_clips(clips: Listed) -> dict[str, Any]:
    """What tells a list of clips from another one."""
    heard = hashlib.sha256(np.ascontiguousarray(clips.ids()).tobytes())
    heard.update(np.ascontiguousarray(clips.durations).tobytes())
    return {"count": len(clips), "digest": heard.hexdigest()[:32]}


def key_of(info: dict[str, Any]) -> str:
    """What stands for all that rows are made of."""
    return hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class RowStore:
    """The rows of some clips, whole or in the making.

    Args:
        folder: where it lies.
        key: stands for all that the rows depend on.
        num_clips, width: N and W.
        block_clips: clips of a block, the last of which may have fewer.
        kind: what the rows are.
    """

    folder: Path
    key: str
    num_clips: int
    width: int
    block_clips: int
    kind: RowKind

    @property
    def path(self) -> Path:
        """The file of all rows."""
        return self.folder / f"{self.kind.name}.npy"

    @property
    def num_blocks(self) -> int:
        """Blocks that the clips make."""
        return -(-self.num_clips // self.block_clips)

    def positions(self, block: int) -> range:
        """Positions of a block's clips."""
        first = block * self.block_clips
        return range(first, min(first + self.block_clips, self.num_clips))

    def is_complete(self) -> bool:
        """Whether all rows are there."""
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

    def write_block(self, block: int, rows: NDArray[np.floating]) -> None:
        """Keep the rows of a block."""
        largest = np.finfo(self.kind.dtype).max
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            rows = np.clip(rows, -largest, largest).astype(self.kind.dtype)
        with atomic_write(self.block_path(block), "wb") as file:
            np.save(file, rows)

    def read_block(self, block: int) -> NDArray[np.floating]:
        """The rows of a finished block."""
        path = self.block_path(block)
        try:
            rows = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise damaged(path, error, path) from None
        expected = (len(self.positions(block)), self.width)
        if rows.shape != expected or rows.dtype != self.kind.dtype:
            raise damaged(
                path, f"expected {expected} {self.kind.dtype}, found {rows.shape} {rows.dtype}", path
            )
        return rows

    def prepare(self) -> None:
        """Remove what a killed run left half written, and refuse to begin what the disk cannot hold: for a
        moment all rows are there twice."""
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        rows = self.num_clips + self.block_clips * len(self.missing_blocks())
        size = np.dtype(self.kind.dtype).itemsize
        needed, free = rows * self.width * size, shutil.disk_usage(self.folder).free
        if needed > free:
            raise StorageError(
                f"{self.kind.what} of {self.num_clips} clips need {needed / 1e9:.2f} GB in "
                f"{self.folder}, where {free / 1e9:.2f} GB are free: free some, or make its parent a link to "
                "another disk"
            )

    def finish(self, ids: NDArray[np.bytes_], info: dict[str, Any]) -> None:
        """Join the blocks, all of which must be there."""
        descr = np.lib.format.dtype_to_descr(np.dtype(self.kind.dtype))
        header = {"descr": descr, "fortran_order": False, "shape": (self.num_clips, self.width)}
        with atomic_write(self.path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in range(self.num_blocks):
                file.write(self.read_block(block).tobytes())
        with atomic_write(self.folder / "ids.npy", "wb") as file:
            np.save(file, np.asarray(ids))
        with atomic_write(self.folder / "store.json") as file:
            json.dump(
                {"format": self.kind.format, "version": VERSION, "key": self.key, **info}, file, indent=2
            )

    def drop_blocks(self) -> None:
        """Remove what is no longer needed once all is joined."""
        shutil.rmtree(self.folder / "blocks", ignore_errors=True)

    def open(self) -> tuple[NDArray[np.floating], NDArray[np.bytes_]]:
        """The rows (N,W), memory-mapped, and the ids (N,)."""
        try:
            rows = np.load(self.path, mmap_mode="r", allow_pickle=False)
            ids = np.load(self.folder / "ids.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise damaged(self.path, error, self.folder) from None
        if rows.shape != (self.num_clips, self.width) or len(ids) != self.num_clips:
            raise damaged(self.path, f"it has shape {rows.shape} and {len(ids)} ids", self.folder)
        return rows, ids


def damaged(path: Path, reason: Exception | str, to_delete: Path) -> DataError:
    """The error for a file that cannot be used."""
    return DataError(f"{path} is damaged ({reason}): delete {to_delete} and run the same command again")
