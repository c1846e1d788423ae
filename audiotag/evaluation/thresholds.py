"""Thresholds of the best F1: one for all classes and one for each, tuned on some clips, used on others.

thresholds.json of an evaluation folder holds those that its own clips gave; a prediction says "present"
where a class's logit is at or above its threshold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audiotag.atomic import atomic_write
from audiotag.data.stagefiles import parse_object
from audiotag.errors import DataError
from audiotag.evaluation.ranking import Steps, best_f1
from audiotag.labels import Label
from audiotag.seal import sealed

RULE = "a class is present where its logit is at least the threshold's"


@dataclass(frozen=True)
class Thresholds:
    """Thresholds in logits of C classes.

    tuned_on: the split whose clips gave them. shared: the one of the best micro F1; 0 (probability 0.5)
    when no clip had a label. by_class: (C,), those of each class's best F1; classes without positives
    have the shared one.
    """

    tuned_on: str
    shared: float
    by_class: np.ndarray


def pick_threshold(ranked: np.ndarray, steps: Steps) -> tuple[float, float]:
    """The best F1 of a ranking (its scores ascending) and a threshold that gives it; NaN without positives.

    The threshold lies halfway to the next lower score, so that rounding does not matter; of equal F1 the
    highest is taken.
    """
    if not len(steps.scores):
        return math.nan, math.nan
    f1 = best_f1(steps.above, steps.not_below, int(steps.found.sum()))
    at = len(f1) - 1 - int(np.argmax(f1[::-1]))
    score, lower = float(steps.scores[at]), -math.inf
    if steps.not_below[at] < len(ranked):
        lower = float(ranked[len(ranked) - steps.not_below[at] - 1])
    halfway = score - (score - lower) / 2
    return float(f1[at]), halfway if lower < halfway else score


def write_thresholds(
    path: Path, thresholds: Thresholds, labels: Sequence[Label], positives: np.ndarray, num_clips: int
) -> None:
    """Write thresholds as JSON, classes by MID; `positives` says from how many clips a class's come."""
    content = {
        "rule": RULE,
        "tuned_on": thresholds.tuned_on,
        "num_clips": num_clips,
        "shared": described(thresholds.shared),
        "classes": [
            {"mid": label.mid, "name": label.name, "positives": int(count), **described(float(threshold))}
            for label, count, threshold in zip(labels, positives, thresholds.by_class, strict=True)
        ],
    }
    with atomic_write(path) as file:
        json.dump(sealed(content), file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def described(logit: float) -> dict[str, float]:
    """A threshold as the logit, which is exact, and as the probability that people read."""
    return {"logit": logit, "probability": probability(logit)}


def probability(logit: float) -> float:
    """The sigmoid of one logit."""
    small = math.exp(-abs(logit))
    return (small if logit < 0 else 1.0) / (1.0 + small)


def read_thresholds(path: Path, labels: Sequence[Label]) -> Thresholds:
    """The thresholds in a file for the classes of a label table, whatever their order in the file."""
    try:
        content = parse_object(path.read_bytes())
        by_mid = {entry["mid"]: finite(entry["logit"]) for entry in content["classes"]}
        shared, tuned_on = finite(content["shared"]["logit"]), str(content["tuned_on"])
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run stage 6 again") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not thresholds, or damaged ({error!r}); run stage 6 again") from None
    missing = [label for label in labels if label.mid not in by_mid]
    if missing:
        raise DataError(
            f"{path} has no threshold for {len(missing)} of {len(labels)} classes, among them "
            f"{missing[0].mid} ({missing[0].name}); tune them with a model of the same classes"
        )
    return Thresholds(tuned_on, shared, np.array([by_mid[label.mid] for label in labels]))


def finite(value: object) -> float:
    """A number of a file; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a number, found {value!r}")
    return float(value)
