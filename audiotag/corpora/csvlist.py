"""A user's own list of clips: a CSV with the columns `path,labels[,start,end,split,unlabelled]`.

Columns are separated by commas or tabs and may stand in any order; labels are separated by semicolons.
"""

from __future__ import annotations

import csv
import difflib
import logging
import math
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from audiotag.corpora.entries import SPLIT_OF_NAME, Entry
from audiotag.errors import DataError
from audiotag.fields import has_control_characters, number, shown

logger = logging.getLogger(__name__)

NEEDED = ("path", "labels")
OPTIONAL = ("start", "end", "split", "unlabelled")


def list_path(dir: str, list: str | None) -> Path | None:
    """The CSV that a corpus' settings name, or None where its folders are the classes."""
    if list is None and Path(dir).is_dir():
        return None
    return Path(os.path.normpath(Path(dir).absolute() / (list or "")))


def labels_path(dir: str, labels: str) -> Path:
    """The label list that a corpus' settings name."""
    folder = Path(dir).absolute()
    return (folder if folder.is_dir() else folder.parent) / labels


def read_list(path: Path) -> list[Entry]:
    """The entries in the order of the list; paths in it are absolute or relative to its folder."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            reader = csv.reader(
                chain([first], file),
                delimiter="\t" if "\t" in first else ",",
                skipinitialspace=True,
                strict=True,
            )
            return list(parse_rows(reader, path))
    except FileNotFoundError:
        raise DataError(f"list of clips not found: {path} (corpus.dir, corpus.list)") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; corpus.list names a CSV file") from None
    except OSError as error:
        raise DataError(f"list of clips cannot be read: {path} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(
            f"{path}, line {first_line_not_utf8(path)}: not UTF-8; save the list as CSV in UTF-8 (for one in "
            "Latin-1: iconv -f latin1 -t utf-8)"
        ) from None
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        raise DataError(f"{where}: not a CSV row ({error}); check the quotes") from None


def first_line_not_utf8(path: Path) -> int:
    """The number of the line that a text decoder stumbles over."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def parse_rows(reader: Iterator[list[str]], path: Path) -> Iterator[Entry]:
    """The entries of all rows below the header; empty lines are passed over."""
    columns = parse_header(next(reader, []), path)
    for row in reader:
        fields = [field.strip() for field in row]
        if not any(fields):
            continue
        where = f"{path}, line {reader.line_num}"
        if any(fields[len(columns) :]):
            raise DataError(
                f"{where}: {len(fields)} fields, but the header names {len(columns)} columns: put a path or "
                "labels with a comma into double quotes, and semicolons between labels"
            )
        if len(fields) <= max(columns.index(name) for name in NEEDED):
            raise DataError(f"{where}: {len(fields)} fields, but the header names {len(columns)} columns")
        given = {name: field for name, field in zip(columns, fields, strict=False) if field}
        yield parse_entry(given, path.parent, where)


def parse_header(row: list[str], path: Path) -> list[str]:
    """The names of the columns in lower case, with all that is needed among them."""
    columns = [name.strip().lower() for name in row]
    while columns and not columns[-1]:
        columns.pop()
    for name in NEEDED:
        if name in columns:
            continue
        found = shown(", ".join(columns)) if columns else "nothing"
        near = difflib.get_close_matches(name, columns, n=1)
        hint = f"; is '{near[0]}' meant for it?" if near else ""
        if len(columns) == 1 and ";" in columns[0]:
            hint = "; separate columns with commas or tabs, labels with semicolons"
        raise DataError(f"{path}: the first line must name the columns path and labels, found: {found}{hint}")
    for name in (*NEEDED, *OPTIONAL):
        if columns.count(name) > 1:
            raise DataError(f"{path}: the first line names the column {name} more than once")
    others = [name for name in columns if name and name not in NEEDED + OPTIONAL]
    if others:
        logger.info("%s: columns that are not used: %s", path, ", ".join(others))
    return columns


def parse_entry(given: dict[str, str], folder: Path, where: str) -> Entry:
    """The entry of one row, whose empty fields are left out of `given`."""
    if "path" not in given:
        raise DataError(f"{where}: the path is empty")
    if "\0" in given["path"]:
        raise DataError(f"{where}: NUL in the path {shown(given['path'])}")
    for name in ("labels", "unlabelled"):
        if has_control_characters(given.get(name, "")):
            raise DataError(f"{where}: control characters in the {name} {shown(given[name])}")
    start_s, end_s = parse_seconds(given, "start", where), parse_seconds(given, "end", where)
    if end_s is not None and end_s <= (start_s or 0.0):
        raise DataError(
            f"{where}: the clip goes from {start_s or 0:g} s to {end_s:g} s, which is empty: end must be "
            "greater than start"
        )
    split = given.get("split")
    if split is not None and split.lower() not in SPLIT_OF_NAME:
        raise DataError(f"{where}: unknown split {shown(split)}, expected one of {', '.join(SPLIT_OF_NAME)}")
    return Entry(
        path=absolute_path(given["path"], folder),
        labels=parse_labels(given.get("labels", "")),
        split=SPLIT_OF_NAME[split.lower()] if split else None,
        start_s=start_s or 0.0,
        end_s=end_s,
        unlabelled=parse_labels(given.get("unlabelled", "")),
    )


def parse_labels(field: str) -> tuple[str, ...]:
    """The labels of a field, separated by semicolons, each once."""
    labels = (label.strip() for label in field.split(";"))
    return tuple(dict.fromkeys(label for label in labels if label))


def absolute_path(path: str, folder: Path) -> str:
    """A path of the list, where relative ones start at the list's folder; a text, since lists are long."""
    return os.path.normpath(path if path.startswith("/") else f"{folder}/{path}")


def parse_seconds(given: dict[str, str], name: str, where: str) -> float | None:
    """A time in seconds; None where the field is empty."""
    if name not in given:
        return None
    seconds = number(given[name])
    if not 0 <= seconds < math.inf:
        raise DataError(f"{where}: {name} must be seconds, 0 or more, found {shown(given[name])}")
    return seconds
