"""A weight for each class in the loss: all the same, by the classes' counts, or from a list."""

from __future__ import annotations

import csv
import difflib
import math
from pathlib import Path

import numpy as np

from audiotag.errors import ConfigError, DataError
from audiotag.fields import number, shown
from audiotag.labels import LabelTable

COLUMNS = ("mid", "weight")
NAMED = 5


def class_weights(choice: str, labels: LabelTable, class_counts: np.ndarray | None) -> np.ndarray:
    """Weights (C,) with a mean of 1, so that learning rates mean the same with any of them.

    Args:
        choice: the key `loss.class_weights`.
        labels: the classes.
        class_counts: (C,) training clips of each class, for `balanced`.
    """
    if choice == "none":
        return np.ones(len(labels))
    if choice == "balanced":
        if class_counts is None:
            raise ConfigError("loss.class_weights is balanced, which needs the counts of a training set")
        return balanced_weights(class_counts)
    weights = read_weights(Path(choice), labels)
    return weights / weights.mean()


def balanced_weights(class_counts: np.ndarray) -> np.ndarray:
    """Weights by the inverse of the counts (C,), mean 1.

    A class without clips has the weight 1: there is nothing to balance, and whatever a count of zero is taken
    for, its negatives would outweigh all other classes.
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    present = counts > 0
    weights = np.ones(len(counts))
    inverse = 1.0 / counts[present]
    if len(inverse):
        weights[present] = inverse / inverse.mean()
    return weights


def read_weights(path: Path, labels: LabelTable) -> np.ndarray:
    """The weights (C,) of a CSV with the columns mid,weight: a row for each class, in any order."""
    weights: dict[str, float] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            header = tuple(name.strip() for name in next(reader, []))
            if header != COLUMNS:
                found = shown(",".join(header))
                raise DataError(f"{path}: the first line must be {','.join(COLUMNS)}, found {found}")
            for row in reader:
                if any(row):
                    where = f"{path}, line {reader.line_num}"
                    mid, weight = parse_row(row, labels, where)
                    if mid in weights:
                        raise DataError(f"{where}: {mid} has a weight already")
                    weights[mid] = weight
    except FileNotFoundError:
        raise ConfigError(
            f"loss.class_weights: {path} not found; expected none, balanced or a CSV file with the columns "
            f"{','.join(COLUMNS)}"
        ) from None
    except OSError as error:
        raise DataError(f"class weights cannot be read: {path} ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a list of class weights ({error})") from None
    without = [label for label in labels if label.mid not in weights]
    if without:
        named = ", ".join(f"{label.mid} ({label.name})" for label in without[:NAMED])
        more = ", ..." if len(without) > NAMED else ""
        raise DataError(
            f"{path} has no weight for {len(without)} of {len(labels)} classes: {named}{more}; add them"
        )
    if not any(weights.values()):
        raise DataError(f"{path}: all weights are 0; give at least one class more")
    return np.array([weights[label.mid] for label in labels])


def parse_row(row: list[str], labels: LabelTable, where: str) -> tuple[str, float]:
    """The MID and the weight of a row."""
    if len(row) != len(COLUMNS):
        raise DataError(f"{where}: expected {','.join(COLUMNS)}, found {shown(','.join(row))}")
    mid, weight = row[0].strip(), number(row[1])
    if mid not in labels.index_of_mid:
        near = difflib.get_close_matches(mid, labels.index_of_mid, n=1)
        hint = f"; is {near[0]} meant?" if near else ""
        raise DataError(f"{where}: {shown(mid)} is not a MID of the label list{hint}")
    if not 0 <= weight < math.inf:
        raise DataError(f"{where}: the weight of {mid} must be 0 or more, found {shown(row[1])}")
    return mid, weight
