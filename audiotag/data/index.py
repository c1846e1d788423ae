"""Random access to the cuts of JSON-lines manifests without reading them into memory.

    manifest = IndexedManifest("data/manifests/cuts_train.jsonl")
    manifest.durations[17], manifest.labels(17), manifest.id(17), manifest.cut(17)

Beside each manifest lies a file of columns (`indexfile.py`), made on first use and remade when the manifest
has changed. It is memory-mapped, so that all processes of a machine share one copy; a cut itself is read
from its line when it is needed, and compared with its columns.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.data.indexbuild import LINE_ERRORS, Columns, essentials, parse_line
from audiotag.data.indexfile import index_path_of, open_columns
from audiotag.errors import DataError


class IndexedManifest:
    """One or several manifests as one sequence of cuts.

    Args:
        paths: a `.jsonl` file of cuts, or several; positions count through them in this order.
    """

    def __init__(self, paths: Path | str | Sequence[Path | str]) -> None:
        if isinstance(paths, (str, Path)):
            paths = [paths]
        if not paths:
            raise DataError("no manifest given")
        self.paths = [Path(path) for path in paths]
        # The files are opened before their columns are checked and stay open: a manifest that is replaced
        # later does not mix with the columns of this one. `pread` has no position that processes share.
        self._files = [open_manifest(path) for path in self.paths]
        self._sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self._parts: list[Columns] = [
            open_columns(path, file.fileno()) for path, file in zip(self.paths, self._files, strict=True)
        ]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])

    def __reduce__(self):
        return type(self), (self.paths,)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _locate(self, index: int) -> tuple[int, int]:
        """Number of the manifest and position in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"cut {index} of {len(self)}")
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return part, int(index) - int(self._starts[part])

    @cached_property
    def durations(self) -> np.ndarray:
        """Durations (N,) in seconds, float32."""
        return joined([part.durations for part in self._parts])

    @property
    def label_ids(self) -> np.ndarray:
        """Class indices of all cuts, one after the other, int32; `label_starts` says which are whose.

        Those of several manifests are joined at every call: hold on to them only where they are needed.
        """
        return joined([part.label_ids for part in self._parts])

    @property
    def label_starts(self) -> np.ndarray:
        """Bounds (N+1,) of each cut's part of `label_ids`; joined like those."""
        return joined_bounds([part.label_starts for part in self._parts])

    def labels(self, index: int) -> np.ndarray:
        """Class indices of a cut."""
        part, position = self._locate(index)
        return self._parts[part].labels(position)

    @cached_property
    def unlabelled_ids(self) -> np.ndarray:
        """Class indices of which some cuts do not say whether they have them, each one once or more often."""
        return joined([part.unlabelled_ids for part in self._parts])

    def unlabelled(self, index: int) -> np.ndarray:
        """Indices of the classes of which a cut does not say whether it has them."""
        part, position = self._locate(index)
        return self._parts[part].unlabelled(position)

    def unlabelled_columns(self) -> list[np.ndarray]:
        """All that is said of unlabelled classes; arrays that are alike where it is, empty for nothing."""
        return [
            column
            for part in self._parts
            for column in (part.unlabelled_sets, part.unlabelled_starts, part.unlabelled_ids)
        ]

    def id(self, index: int) -> str:
        """Id of a cut."""
        part, position = self._locate(index)
        return self._parts[part].id(position)

    def ids(self) -> np.ndarray:
        """Ids (N,) of all cuts as a numpy array of UTF-8 bytes, made at every call.

        2,000,000 of 11 letters each take 22 MB, or nothing where one manifest has no others.
        """
        return joined([part.ids() for part in self._parts])

    def record(self, index: int) -> dict[str, Any]:
        """A cut as the plain dictionary that its line holds."""
        part, position = self._locate(index)
        columns = self._parts[part]
        start, end = int(columns.offsets[position]), int(columns.offsets[position + 1])
        try:
            # A manifest or index that was overwritten in place names places that are nowhere.
            if not 0 <= start < end <= self._sizes[part]:
                raise ValueError("no such place")
            record = parse_line(os.pread(self._files[part].fileno(), end - start, start))
            cut_id, duration, labels, unlabelled = essentials(record)
            same = (
                cut_id == columns.id(position)
                and np.float32(duration) == columns.durations[position]
                and labels == columns.labels(position).tolist()
                and unlabelled == columns.unlabelled(position).tolist()
            )
        except LINE_ERRORS:
            same = False
        if not same:
            path = self.paths[part]
            raise DataError(
                f"{path}: cut {columns.id(position)} is not what its index says: the manifest was changed "
                f"in use or its time set back; delete {index_path_of(path)} and run the command again"
            )
        return record

    def cut(self, index: int):
        """A cut as a lhotse object."""
        from lhotse.serialization import deserialize_item

        return deserialize_item(self.record(index))


def open_manifest(path: Path):
    """Open a manifest for reading bytes."""
    if path.suffix == ".gz":
        raise DataError(f"{path}: compressed manifests have no random access; unpack it with gunzip first")
    try:
        return path.open("rb")
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"manifest not found: {path}") from None
    except OSError as error:
        raise DataError(f"manifest {path} cannot be read: {error.strerror}") from None


def joined(arrays: list[np.ndarray]) -> np.ndarray:
    """One array; a single one stays memory-mapped."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def joined_bounds(arrays: list[np.ndarray]) -> np.ndarray:
    """Bounds (N+1,) of joined columns from the bounds of each."""
    if len(arrays) == 1:
        return arrays[0]
    offsets = np.cumsum([0, *(array[-1] for array in arrays)])
    shifted = [array[1:] + offset for array, offset in zip(arrays, offsets[:-1], strict=True)]
    return np.concatenate([[0], *shifted])
