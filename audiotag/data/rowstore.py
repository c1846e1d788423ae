"""Something of every clip on disk: a row of numbers for each, memory-mapped when it is read.

A store is a folder:
    <name>.npy    (N,W) numbers; NaN for a clip that could not be read
    ids.npy       (N,) ids of the clips as UTF-8 bytes
    inputs.npz    what a few of the clips held when the first block was made (`inputsample.py`); stores that
                  are older than this file have none, and are taken as they are
    store.json    what the rows were made of, the key that stands for it, and the CRCs of those files; written
                  last
    blocks/       while it is being made: the finished blocks of rows, each an .npz file, which has a CRC

Hours of a model's work are in it, of which nobody would notice a changed bit, nor that features were stored
anew: each start compares the CRCs, and those few clips, once, and what does not fit is made again.

Numbers beyond the range of their type are kept as its largest.

Shapes: N clips, W numbers of a clip.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from audiotag.arrayfiles import read_array, read_arrays
from audiotag.atomic import atomic_write
from audiotag.data.inputsample import check_sample, keep_sample
from audiotag.data.stagefiles import parse_object
from audiotag.errors import DataError, StorageError
from audiotag.seal import file_checksum, sealed

logger = logging.getLogger(__name__)

VERSION = 2  # stores of version 1 have no checksums


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
    def ids_path(self) -> Path:
        """The file of the clips' ids."""
        return self.folder / "ids.npy"

    @property
    def inputs_path(self) -> Path:
        """The file of what some of the clips held."""
        return self.folder / "inputs.npz"

    @property
    def description_path(self) -> Path:
        """The file that says what the others are."""
        return self.folder / "store.json"

    @property
    def num_blocks(self) -> int:
        """Blocks that the clips make."""
        return -(-self.num_clips // self.block_clips)

    def positions(self, block: int) -> range:
        """Positions of a block's clips."""
        first = block * self.block_clips
        return range(first, min(first + self.block_clips, self.num_clips))

    def is_complete(self, inputs: NDArray[np.float32]) -> bool:
        """Whether all rows are there as they were written, of clips that have not changed. It reads them all:
        for one process, once.

        Args:
            inputs: what `sample_inputs` finds in the clips now.
        """
        path = self.description_path
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return False
        try:
            description = parse_object(content)
            self.check_files(description)
            check_sample(self.inputs_path, inputs)
        except ValueError as error:
            logger.warning("%s: %s; %s are made again", path, error, self.kind.what)
            return False
        if description.get("key") != self.key:
            raise damaged(path, "its key is not the folder's", self.folder)
        return True

    def check_files(self, description: dict[str, Any]) -> None:
        """Compare the files with what store.json says of them; ValueError where they are others."""
        if description.get("version") != VERSION:
            raise ValueError(f"it is of version {description.get('version')}, expected {VERSION}")
        expected = description.get("crc32")
        for path in (self.path, self.ids_path):
            if not path.is_file():
                raise ValueError(f"{path.name} is missing")
            if not isinstance(expected, dict) or expected.get(path.name) != file_checksum(path):
                raise ValueError(f"{path.name} was changed after it was written")

    def missing_blocks(self) -> list[int]:
        """Blocks that are still to be made."""
        return [block for block in range(self.num_blocks) if not self.block_path(block).is_file()]

    def block_path(self, block: int) -> Path:
        """The file of a block."""
        return self.folder / "blocks" / f"{block}.npz"

    def write_block(self, block: int, rows: NDArray[np.floating]) -> None:
        """Keep the rows of a block."""
        largest = np.finfo(self.kind.dtype).max
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            rows = np.clip(rows, -largest, largest).astype(self.kind.dtype)
        with atomic_write(self.block_path(block), "wb") as file:
            np.savez(file, rows=rows)

    def read_block(self, block: int) -> NDArray[np.floating]:
        """The rows of a finished block."""
        try:
            return self.checked_block(block)
        except ValueError as error:
            raise damaged(self.block_path(block), error, self.block_path(block)) from None

    def checked_block(self, block: int) -> NDArray[np.floating]:
        """The rows of a finished block; ValueError where they are not what belongs there."""
        [rows] = read_arrays(self.block_path(block), "rows")
        expected = (len(self.positions(block)), self.width)
        if rows.shape != expected or rows.dtype != self.kind.dtype:
            raise ValueError(f"expected {expected} {self.kind.dtype}, found {rows.shape} {rows.dtype}")
        return rows

    def num_finished(self) -> int:
        """Clips of the blocks that are there, for messages: one look at their folder."""
        return min(len(list(self.folder.glob("blocks/[0-9]*.npz"))) * self.block_clips, self.num_clips)

    def prepare(self, inputs: NDArray[np.float32]) -> None:
        """Remove what cannot be used, whole, half written or of other inputs, and refuse to begin what the
        disk cannot hold: for a moment all rows are there twice.

        Args:
            inputs: what `sample_inputs` finds in the clips now.
        """
        unusable = [self.description_path, self.path, self.ids_path, *self.folder.glob(".*.tmp")]
        for path in [*unusable, *self.damaged_blocks()]:
            path.unlink(missing_ok=True)
        self.drop_outdated(inputs)  # once no description is left: new inputs must not vouch for old rows
        rows = self.num_clips + self.block_clips * len(self.missing_blocks())
        size = np.dtype(self.kind.dtype).itemsize
        needed, free = rows * self.width * size, shutil.disk_usage(self.folder).free
        if needed > free:
            raise StorageError(
                f"{self.kind.what} of {self.num_clips} clips need {needed / 1e9:.2f} GB in "
                f"{self.folder}, where {free / 1e9:.2f} GB are free: free some, or make its parent a link to "
                "another disk"
            )

    def drop_outdated(self, inputs: NDArray[np.float32]) -> None:
        """Remove the blocks where clips have changed since the first of them was made."""
        try:
            check_sample(self.inputs_path, inputs)
        except ValueError as error:
            if self.num_finished():
                logger.warning("%s: %s; its blocks are made again", self.folder, error)
            self.drop_blocks()
            self.inputs_path.unlink()
        if not self.inputs_path.exists():
            keep_sample(self.inputs_path, inputs)

    def damaged_blocks(self) -> Iterator[Path]:
        """The files of blocks that are there and not as they were written."""
        for block in set(range(self.num_blocks)).difference(self.missing_blocks()):
            try:
                self.checked_block(block)
            except ValueError as error:
                logger.warning("%s is damaged (%s): it is made again", self.block_path(block), error)
                yield self.block_path(block)

    def finish(self, ids: NDArray[np.bytes_], info: dict[str, Any]) -> None:
        """Join the blocks, all of which must be there."""
        ids_file = io.BytesIO()
        np.save(ids_file, np.asarray(ids))
        checksums = {
            self.path.name: write_parts(self.path, self.joined()),
            self.ids_path.name: write_parts(self.ids_path, [ids_file.getvalue()]),
        }
        about = {"format": self.kind.format, "version": VERSION, "key": self.key, "crc32": checksums}
        with atomic_write(self.description_path) as file:
            json.dump(sealed({**about, **info}), file, indent=2)

    def joined(self) -> Iterator[bytes]:
        """The file of all rows, part by part."""
        header = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(np.dtype(self.kind.dtype))
        shape = (self.num_clips, self.width)
        np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
        yield header.getvalue()
        for block in range(self.num_blocks):
            yield self.read_block(block).tobytes()

    def drop_blocks(self) -> None:
        """Remove what is no longer needed once all is joined."""
        shutil.rmtree(self.folder / "blocks", ignore_errors=True)

    def open(self) -> tuple[NDArray[np.floating], NDArray[np.bytes_]]:
        """The rows (N,W), memory-mapped, and the ids (N,)."""
        try:
            rows, ids = read_array(self.path, mapped=True), read_array(self.ids_path)
        except (OSError, ValueError) as error:
            raise damaged(self.path, error, self.folder) from None
        found = (rows.shape, rows.dtype, ids.shape, ids.dtype.kind)
        if found != ((self.num_clips, self.width), np.dtype(self.kind.dtype), (self.num_clips,), "S"):
            raise damaged(
                self.path,
                f"it has {rows.dtype} of shape {rows.shape} and ids of shape {ids.shape}",
                self.folder,
            )
        return rows, ids


def write_parts(path: Path, parts: Iterable[bytes]) -> int:
    """Write a file part by part; returns the CRC-32 of all of it."""
    checksum = 0
    with atomic_write(path, "wb") as file:
        for part in parts:
            checksum = zlib.crc32(part, checksum)
            file.write(part)
    return checksum


def damaged(path: Path, reason: Exception | str, to_delete: Path) -> DataError:
    """The error for a file that cannot be used."""
    return DataError(f"{path} is damaged ({reason}): delete {to_delete} and run the same command again")
