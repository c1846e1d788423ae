"""What is written of each file: a block of lines for people, a line of JSON, or rows of CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from typing import IO

from audiotag.evaluation.tables import Table
from audiotag.fields import has_control_characters
from audiotag.prediction.predictor import Prediction
from audiotag.prediction.selection import Tag

CSV_COLUMNS = ("path", "duration_s", "rank", "index", "mid", "name", "probability")

Writer = Callable[[Prediction, list[Tag]], None]


def table_writer(file: IO[str]) -> Writer:
    """Writes the path, length and number of windows, and below them the classes in columns."""

    def write(prediction: Prediction, tags: list[Tag]) -> None:
        windows = f", {prediction.num_windows} windows" if prediction.num_windows > 1 else ""
        file.write(f"{shown_path(prediction.input.path)}  ({prediction.duration_s:.2f} s{windows})\n")
        rows = [[f"{tag.probability:.4f}", tag.label.name, tag.label.mid] for tag in tags]
        # The header and the rule below it would be half of each block.
        lines = (
            Table(("", "", ""), rows).text().split("\n")[2:] if rows else ["no class reaches its threshold"]
        )
        file.writelines(f"  {line}\n" for line in lines)

    return write


def json_writer(file: IO[str]) -> Writer:
    """Writes one object in a line for each file."""

    def write(prediction: Prediction, tags: list[Tag]) -> None:
        content = {
            "path": prediction.input.path,
            "duration_s": round(prediction.duration_s, 6),
            "windows": prediction.num_windows,
            "tags": [tag.to_dict() for tag in tags],
        }
        file.write(json.dumps(content, ensure_ascii=False) + "\n")

    return write


def csv_writer(file: IO[str]) -> Writer:
    """Writes a header and a row for each class of each file."""
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(CSV_COLUMNS)

    def write(prediction: Prediction, tags: list[Tag]) -> None:
        for rank, tag in enumerate(tags, start=1):
            known = {
                "path": prediction.input.path,
                "duration_s": f"{prediction.duration_s:.3f}",
                "rank": rank,
                **tag.to_dict(),
            }
            rows.writerow([known[name] for name in CSV_COLUMNS])

    return write


WRITERS: dict[str, Callable[[IO[str]], Writer]] = {
    "table": table_writer,
    "json": json_writer,
    "csv": csv_writer,
}


def shown_path(path: str) -> str:
    """A path for people; one that would break the line, or is no text, is quoted with escapes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return ascii(path)
    return repr(path) if has_control_characters(path) else path
