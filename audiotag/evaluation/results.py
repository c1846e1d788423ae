"""The folder of one evaluation: scores.npz, per_class.csv, thresholds.json and metrics.json."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.atomic import atomic_write, replace_together
from audiotag.data.stagefiles import parse_object
from audiotag.errors import DataError
from audiotag.evaluation.calibration import NUM_BINS
from audiotag.evaluation.metrics import Metrics, compute_metrics
from audiotag.evaluation.perclass import ClassResult, read_per_class, write_per_class
from audiotag.evaluation.ranking import d_prime
from audiotag.evaluation.scores import Scores
from audiotag.evaluation.thresholds import Thresholds, read_thresholds, write_thresholds
from audiotag.labels import LabelTable
from audiotag.provenance import file_digest
from audiotag.seal import sealed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation folder as read back.

    metrics: the summary of `compute_metrics`, with the infinite d' of a perfect ranking. intervals: [low,
    high] of those metrics that were resampled `resamplings` times. bins: (3,15) of `Metrics.bins`; None in
    folders of earlier versions. info: what the evaluating command knew. A report looks for `split`,
    `weights`, `weights_in_words`, `checkpoints` (file names), `sha256` (their digests by name), `averaged`
    (by name, what averaged files were made of), `training` (`processes`, `provenance` and `init` of the
    checkpoint), `selected_on` (the split whose metric chose the epoch), `precision`, `device`, `batch_size`,
    `windows`, `coverage` (as `read_coverage` gives it) and `provenance` (texts by name, among them the
    command). sha256: digests of the files beside metrics.json that have no checksums of their own.
    """

    folder: Path
    metrics: dict[str, float | int | None]
    classes_without_positives: list[str]
    zero_without_positives: bool
    info: dict[str, Any]
    intervals: dict[str, list[float]] = field(default_factory=dict)
    resamplings: int = 0
    bins: np.ndarray | None = None
    sha256: dict[str, str] = field(default_factory=dict)

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
        path = self.folder / "per_class.csv"
        classes = read_per_class(path)
        if self.sha256.get(path.name) not in (None, file_digest(path)):
            raise DataError(f"{path} was changed after it was written; run stage 6 again")
        return classes

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
    bootstrap: int = 0,
    seed: int = 0,
) -> Metrics:
    """Compute the metrics of the scores and write the evaluation folder; metrics.json comes last.

    info: anything that JSON can hold (paths become text); see `Evaluation` for what reports look for.
    bootstrap: resamplings for the confidence intervals, drawn from the seed; 0 computes none.

    Where the same weights were evaluated on valid before, their thresholds are used on this split too.
    """
    folder = Path(folder)
    if len(labels) != scores.logits.shape[1]:
        raise DataError(
            f"{folder}: {len(labels)} labels, but the scores have {scores.logits.shape[1]} classes"
        )
    options = {
        "zero_without_positives": zero_without_positives,
        "tuned": thresholds_of_valid(folder, labels, info),
    }
    metrics = compute_metrics(scores.logits, scores.labels, ids=scores.ids, **options)
    content = {
        "metrics": metrics.summary,
        "intervals": find_intervals(scores, metrics, bootstrap, seed, options),
        "resamplings": bootstrap,
        "calibration": metrics.bins.tolist(),
        "classes_without_positives": [labels[index].name for index in metrics.classes_without_positives],
        "zero_without_positives": zero_without_positives,
        "info": dict(info),
    }
    thresholds = metrics.tuned_thresholds(clips_of(str(info.get("split")), info))
    with replace_together(folder, sign="metrics.json") as new:
        scores.save(new / "scores.npz")
        write_per_class(new / "per_class.csv", metrics, labels)
        write_thresholds(new / "thresholds.json", thresholds, labels, metrics.positives, len(scores.ids))
        content["sha256"] = {"per_class.csv": file_digest(new / "per_class.csv")}
        text = json.dumps(sealed(content), indent=2, ensure_ascii=False, allow_nan=False, default=str)
        with atomic_write(new / "metrics.json") as file:
            file.write(text + "\n")
    return metrics


def find_intervals(
    scores: Scores, metrics: Metrics, resamplings: int, seed: int, options: Mapping[str, Any]
) -> dict[str, list[float]]:
    """The confidence intervals of the metrics; none without resamplings."""
    if not resamplings:
        return {}
    # scipy is imported only where intervals are asked for.
    from audiotag.evaluation.bootstrap import intervals, resample
    from audiotag.evaluation.resampling import Resampled

    system = Resampled(scores.logits, scores.labels, **options)
    [draws] = resample([system], len(scores.ids), resamplings, seed=seed)
    return intervals(draws, metrics.summary)


def clips_of(split: str, info: Mapping[str, Any]) -> str:
    """The split whose clips a split has: itself, or the one that it is, or is a part of, in this recipe."""
    counts = (info.get("coverage") or {}).get(split, {})
    return str(counts.get("same_as") or counts.get("part_of") or split)


def thresholds_of_valid(folder: Path, labels: LabelTable, info: Mapping[str, Any]) -> Thresholds | None:
    """The thresholds that the same weights gave on a valid split of other clips; None without one."""
    split = info.get("split")
    beside = folder.with_name(folder.name.replace(f"eval_{split}_", "eval_valid_", 1))
    if beside == folder or clips_of("valid", info) == split or not (beside / "metrics.json").exists():
        return None
    try:
        known = read_evaluation(beside).info
        if any(known.get(key) != info.get(key) for key in ("checkpoints", "sha256")):
            logger.info("%s is of other weights: its thresholds are not used for %s", beside, folder)
            return None
        return read_thresholds(beside / "thresholds.json", labels)
    except DataError as error:
        logger.warning("no thresholds tuned on valid for %s: %s", folder, error)
        return None


def read_evaluation(folder: Path | str) -> Evaluation:
    """The evaluation in a folder; its scores and classes are read when they are asked for."""
    folder = Path(folder)
    path = folder / "metrics.json"
    try:
        content = parse_object(path.read_bytes())
        return Evaluation(
            folder=folder,
            metrics=with_infinities(
                {name: number_or_none(value) for name, value in content["metrics"].items()}
            ),
            classes_without_positives=list(content["classes_without_positives"]),
            zero_without_positives=bool(content["zero_without_positives"]),
            info=dict(content["info"]),
            intervals={name: interval(pair) for name, pair in content.get("intervals", {}).items()},
            resamplings=int(content.get("resamplings", 0)),
            bins=read_bins(content.get("calibration")),
            sha256=dict(content.get("sha256", {})),
        )
    except FileNotFoundError:
        raise DataError(f"no evaluation in {folder}: metrics.json is missing; run stage 6") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not the metrics of an evaluation, or damaged ({error!r}); run stage 6 again"
        ) from None


def with_infinities(metrics: dict[str, float | int | None]) -> dict[str, float | int | None]:
    """The metrics with the infinite d' of a perfect, or wholly wrong, ranking, which JSON cannot hold."""
    if "d_prime" in metrics and metrics["d_prime"] is None and metrics.get("mAUC") in (0.0, 1.0):
        metrics["d_prime"] = d_prime(metrics["mAUC"])
    return metrics


def number_or_none(value: Any) -> float | int | None:
    """A value of the summary; ValueError for what is none."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"expected a number or null, found {value!r}")
    return value


def interval(pair: Any) -> list[float]:
    """The two bounds of an interval."""
    low, high = pair
    return [float(low), float(high)]


def read_bins(rows: Any) -> np.ndarray | None:
    """The bins of the calibration, where there are some."""
    return None if rows is None else np.array(rows, dtype=np.float64).reshape(3, NUM_BINS)
