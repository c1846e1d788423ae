"""per_class.csv of an evaluation folder: one line for each class."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from audiotag.atomic import atomic_write
from audiotag.errors import DataError
from audiotag.evaluation.metrics import Metrics
from audiotag.evaluation.thresholds import probability
from audiotag.labels import LabelTable

COLUMNS = ("index", "mid", "name", "positives", "AP", "AUC", "F1", "best_F1", "threshold")
EARLIER_COLUMNS = COLUMNS[:7]


@dataclass(frozen=True)
class ClassResult:
    """One line of per_class.csv; metrics that do not exist for the class are NaN.

    f1: at probability 0.5; best_f1: at `threshold`, the probability that is best on these same clips.
    """

    index: int
    mid: str
    name: str
    positives: int
    ap: float
    auc: float
    f1: float
    best_f1: float = math.nan
    threshold: float = math.nan


def write_per_class(path: Path, metrics: Metrics, labels: LabelTable) -> None:
    """One line per class in the order of the indices; a metric that does not exist is left empty."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for label, positives, threshold, *values in zip(
            labels, metrics.positives, metrics.thresholds, metrics.ap, metrics.auc, metrics.f1,
            metrics.best_f1, strict=True,
        ):  # fmt: skip
            values.append(threshold if math.isnan(threshold) else probability(float(threshold)))
            shown = ["" if math.isnan(value) else f"{value:.6f}" for value in values]
            writer.writerow([label.index, label.mid, label.name, positives, *shown])


def read_per_class(path: Path) -> list[ClassResult]:
    """The lines of a per_class.csv."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            columns = tuple(next(reader, ()))
            if columns not in (COLUMNS, EARLIER_COLUMNS):
                raise ValueError(f"the first line must be {','.join(COLUMNS)}")
            return [parse_row(row, len(columns)) for row in reader]
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run stage 6 again") from None
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: not a table of classes ({error}); run stage 6 again") from None


def parse_row(row: list[str], num_columns: int) -> ClassResult:
    """The class of a line; ValueError for a line of another form."""
    if len(row) != num_columns:
        raise ValueError(f"expected {num_columns} values in a line, found {len(row)}")
    index, mid, name, positives, *values = row
    return ClassResult(int(index), mid, name, int(positives), *(float(value or "nan") for value in values))
