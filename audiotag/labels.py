"""The label table of a model or corpus: index, MID and display name of every class."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from audiotag.atomic import atomic_write
from audiotag.errors import DataError

COLUMNS = ("index", "mid", "display_name")


@dataclass(frozen=True)
class Label:
    """One class: its position in the model's output, its machine id and its name for people."""

    index: int
    mid: str
    name: str


class LabelTable(Sequence[Label]):
    """Labels in the order of their indices, with look-up by MID."""

    def __init__(self, labels: Sequence[Label]) -> None:
        self._labels = tuple(labels)
        for position, label in enumerate(self._labels):
            if label.index != position:
                raise DataError(
                    f"label table: entry {position} ({label.mid}) has index {label.index}; "
                    "indices must count 0, 1, 2, ... in order"
                )
        if len(self.index_of_mid) != len(self._labels):
            raise DataError("label table: a MID occurs twice")

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index):
        return self._labels[index]

    def __iter__(self) -> Iterator[Label]:
        return iter(self._labels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelTable) and self._labels == other._labels

    __hash__ = None

    @cached_property
    def index_of_mid(self) -> dict[str, int]:
        """Class index by MID."""
        return {label.mid: label.index for label in self._labels}

    @property
    def names(self) -> list[str]:
        """Display names in index order."""
        return [label.name for label in self._labels]

    def to_rows(self) -> list[list]:
        """Plain `[index, mid, name]` rows, as checkpoints store them."""
        return [[label.index, label.mid, label.name] for label in self._labels]

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence]) -> LabelTable:
        """The inverse of `to_rows`."""
        return cls([Label(int(index), str(mid), str(name)) for index, mid, name in rows])

    @classmethod
    def read(cls, path: Path | str) -> LabelTable:
        """Read AudioSet's `class_labels_indices.csv` layout: index, mid, display_name."""
        path = Path(path)
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.reader(file, skipinitialspace=True)
                header = next(reader, None)
                if header is None or tuple(header) != COLUMNS:
                    raise DataError(f"{path}: the first line must be {','.join(COLUMNS)}, found {header}")
                return cls.from_rows([row for row in reader if row])
        except FileNotFoundError:
            raise DataError(f"label list not found: {path}") from None
        except (ValueError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a label list ({error})") from None
        except DataError as error:
            raise error if str(path) in str(error) else DataError(f"{path}: {error}") from None

    def write(self, path: Path | str) -> None:
        """Write the table in the same layout."""
        with atomic_write(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(self.to_rows())
