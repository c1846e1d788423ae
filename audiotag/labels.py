"""The label table of a model or corpus: index, MID and display name of every class."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from audiotag.atomic import atomic_write
from audiotag.errors import DataError
from audiotag.fields import has_control_characters, shown

COLUMNS = ("index", "mid", "display_name")
INDEX = re.compile("[0-9]{1,9}")


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
            if not label.mid.strip() or not label.name.strip():
                raise DataError(f"label table: entry {position} has no MID or no name")
            if has_control_characters(label.mid + label.name):
                raise DataError(
                    f"label table: entry {position} has control characters: MID {shown(label.mid)}, "
                    f"name {shown(label.name)}"
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
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file, skipinitialspace=True, strict=True)
                header = next(reader, [])
                if tuple(header) != COLUMNS:
                    found = shown(",".join(header))
                    raise DataError(f"the first line must be {','.join(COLUMNS)}, found {found}")
                table = cls([parse_row(row, reader.line_num) for row in reader if row])
        except FileNotFoundError:
            raise DataError(f"label list not found: {path}") from None
        except OSError as error:
            raise DataError(f"label list cannot be read: {path} ({error.strerror})") from None
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a label list ({error})") from None
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        if not len(table):
            raise DataError(f"{path} lists no classes")
        return table

    def write(self, path: Path | str) -> None:
        """Write the table in the same layout."""
        with atomic_write(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(self.to_rows())


def parse_row(row: list[str], line: int) -> Label:
    """The label of a row of three fields."""
    if len(row) != len(COLUMNS) or not INDEX.fullmatch(row[0]):
        found = shown(",".join(row))
        raise DataError(f"line {line}: not a label list, expected {','.join(COLUMNS)}, found {found}")
    return Label(int(row[0]), *row[1:])
