"""AudioSet's segment lists: which clips a corpus has, and their labels as MIDs."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audiotag.errors import DataError


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
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            for row in reader:
                if row and not row[0].startswith("#"):
                    yield parse_row(row, f"{path}, line {reader.line_num}")
    except FileNotFoundError:
        raise DataError(f"segment list not found: {path}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a segment list ({error})") from None


def parse_row(row: list[str], where: str) -> Segment:
    """The segment of a CSV row; a label list without quotes arrives as several columns."""
    if len(row) < 4:
        raise DataError(
            f'{where}: expected `id, start_seconds, end_seconds, "mid,mid"`, found {len(row)} columns: {row}'
        )
    try:
        start_s, end_s = float(row[1]), float(row[2])
    except ValueError:
        raise DataError(f"{where}: start and end must be seconds, found {row[1]!r} and {row[2]!r}") from None
    if not (0 <= start_s < end_s < math.inf):
        raise DataError(f"{where}: clip {row[0]} goes from {row[1]} s to {row[2]} s, which is empty")
    mids = (mid.strip() for column in row[3:] for mid in column.split(","))
    return Segment(row[0].strip(), start_s, end_s, tuple(mid for mid in mids if mid))
