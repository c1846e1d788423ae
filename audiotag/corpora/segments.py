"""AudioSet's segment lists: which clips a corpus has, and their labels as MIDs."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from audiotag.errors import DataError
from audiotag.fields import has_control_characters, number, shown


@dataclass(frozen=True, slots=True)
class Segment:
    """One row of a segment list: a part of a video, in seconds, and its MIDs."""

    id: str
    start_s: float
    end_s: float
    mids: tuple[str, ...]


def read_segments(path: Path) -> Iterator[Segment]:
    """Yield the rows `YTID, start_seconds, end_seconds, "mid,mid"` of a list; lines with '#' are comments."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = Lines(file)
            reader = csv.reader(lines, skipinitialspace=True, strict=True)
            for row in reader:
                if row:
                    yield parse_row(row, f"{path}, line {reader.line_num}", is_whole=lines.ended)
    except FileNotFoundError:
        raise DataError(f"segment list not found: {path}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a segment list ({error})") from None
    except OSError as error:
        raise DataError(f"segment list cannot be read: {path} ({error.strerror})") from None


class Lines:
    """The lines of a list, empty ones for comments; `ended` says whether the latest has its line end."""

    def __init__(self, file: Iterable[str]) -> None:
        self._lines = iter(file)
        self.ended = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.ended = line.endswith(("\n", "\r"))
        return "\n" if line.lstrip().startswith("#") else line


def parse_row(row: list[str], where: str, *, is_whole: bool) -> Segment:
    """The segment of a CSV row; a label list without quotes arrives as several columns."""
    if len(row) < 4:
        raise DataError(
            f'{where}: expected `id, start_seconds, end_seconds, "mid,mid"`, found {len(row)} columns: '
            f"{shown(', '.join(row))}"
        )
    clip_id = row[0].strip()
    if not clip_id or has_control_characters(clip_id):
        raise DataError(f"{where}: the id is empty or holds control characters: {shown(clip_id)}")
    start_s, end_s = seconds(row[1], where), seconds(row[2], where)
    if not (0 <= start_s < end_s < math.inf):
        raise DataError(
            f"{where}: clip {shown(clip_id)} goes from {shown(row[1])} s to {shown(row[2])} s, which is empty"
        )
    mids = (mid.strip() for column in row[3:] for mid in column.split(","))
    mids = tuple(mid for mid in mids if mid)
    if not mids and not is_whole:
        raise DataError(f"{where}: the list ends in the middle of a row; copy it again")
    return Segment(clip_id, start_s, end_s, mids)


def seconds(text: str, where: str) -> float:
    """A time as plain digits."""
    value = number(text)
    if math.isnan(value):
        raise DataError(f"{where}: start and end must be seconds, found {shown(text)}")
    return value
