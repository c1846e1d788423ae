"""The folder of one evaluation: scores.npz, per_class.csv and metrics.json, written and read here."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from audiotag.atomic import atomic_write
from audiotag.errors import DataError
from audiotag.evaluation.metrics import Metrics, compute_metrics
from audiotag.evaluation.scores import Scores
from audiotag.labels import LabelTable

COLUMNS = ("index", "mid", "name", "positives", "AP", "AUC", "F1")


@dataclass(frozen=True)
class ClassResult:
    """One line of per_class.csv; metrics that do not exist for the class are NaN."""

    index: int
    mid: str
    name: str
    positives: int
    ap: float
    auc: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """An evaluation folder as read back.

    metrics: the summary of `compute_metrics`. info: what the evaluating command knew. A report looks for
    `split`, `weights` (in words), `checkpoints` (file names), `selected_on` (the split whose metric chose
    the epoch), `coverage` (as `read_coverage` gives it) and `provenance` (texts by name, among them the
    command).
    """

    folder: Path
    metrics: dict[str, float | int | None]
    classes_without_positives: list[str]
    zero_without_positives: bool
    info: dict[str, Any]

    @property
    def split(self) -> str:
        """The split that was evaluated."""
        return str(self.info.get("split", self.folder.name.removeprefix("eval_").split("_")[0]))

    @property
    def weights(self) -> str:
        """Which weights were evaluated, in words; the folder's name where that is not recorded."""
        return str(self.info.get("weights", self.folder.name))

    @property
    def selected_on_eval(self) -> bool:
        """Whether the epoch was chosen on the evaluation clips."""
        return self.info.get("selected_on") == "eval"

    @cached_property
    def classes(self) -> list[ClassResult]:
        """The results of all classes in the order of their indices."""
        return read_per_class(self.folder / "per_class.csv")

    def scores(self) -> Scores:
        """The stored scores."""
        return Scores.load(self.folder / "scores.npz")


def write_evaluation(
    folder: Path | str,
    scores: Scores,
    labels: LabelTable,
    *,
    info: Mapping[str, Any],
    zero_without_positives: bool = False,
) -> Metrics:
    """Compute the metrics of the scores and write the evaluation folder; metrics.json comes last.

    info: anything that JSON can hold (paths become text); see `Evaluation` for what reports look for.
    """
    folder = Path(folder)
    if len(labels) != scores.logits.shape[1]:
        raise DataError(
            f"{folder}: {len(labels)} labels, but the scores have {scores.logits.shape[1]} classes"
        )
    metrics = compute_metrics(
        scores.logits, scores.labels, ids=scores.ids, zero_without_positives=zero_without_positives
    )
    content = {
        "metrics": metrics.summary,
        "classes_without_positives": [labels[index].name for index in metrics.classes_without_positives],
        "zero_without_positives": zero_without_positives,
        "info": dict(info),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    folder.mkdir(parents=True, exist_ok=True)
    # A reader takes metrics.json as the sign that the rest is there and belongs to it.
    (folder / "metrics.json").unlink(missing_ok=True)
    scores.save(folder / "scores.npz")
    write_per_class(folder / "per_class.csv", metrics, labels)
    with atomic_write(folder / "metrics.json") as file:
        file.write(text + "\n")
    return metrics


def read_evaluation(folder: Path | str) -> Evaluation:
    """The evaluation in a folder; its scores and classes are read when they are asked for."""
    folder = Path(folder)
    path = folder / "metrics.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Evaluation(
            folder=folder,
            metrics=dict(content["metrics"]),
            classes_without_positives=list(content["classes_without_positives"]),
            zero_without_positives=bool(content["zero_without_positives"]),
            info=dict(content["info"]),
        )
    except FileNotFoundError:
        raise DataError(f"no evaluation in {folder}: metrics.json is missing; run stage 6") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not the metrics of an evaluation, or damaged ({error!r}); run stage 6 again"
        ) from None


def write_per_class(path: Path, metrics: Metrics, labels: LabelTable) -> None:
    """One line per class in the order of the indices; a metric that does not exist is left empty."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for label, positives, *values in zip(
            labels, metrics.positives, metrics.ap, metrics.auc, metrics.f1, strict=True
        ):
            shown = ["" if math.isnan(value) else f"{value:.6f}" for value in values]
            writer.writerow([label.index, label.mid, label.name, positives, *shown])


def read_per_class(path: Path) -> list[ClassResult]:
    """The lines of a per_class.csv."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            if tuple(next(reader, ())) != COLUMNS:
                raise ValueError(f"the first line must be {','.join(COLUMNS)}")
            return [
                ClassResult(
                    int(index), mid, name, int(positives), *(float(value or "nan") for value in values)
                )
                for index, mid, name, positives, *values in reader
            ]
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run stage 6 again") from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: not a table of classes ({error}); run stage 6 again") from None
