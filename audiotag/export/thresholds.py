"""The thresholds that an evaluation of the exported weights found, to be packed with them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiotag.errors import DataError
from audiotag.evaluation.results import Evaluation, read_evaluation
from audiotag.evaluation.thresholds import read_thresholds
from audiotag.labels import LabelTable

logger = logging.getLogger(__name__)

# The split first whose clips are not those that results are compared on.
SPLITS = ("valid", "eval")


@dataclass(frozen=True)
class FoundThresholds:
    """A thresholds.json: what it holds, and the evaluation that it is of."""

    content: bytes
    info: dict[str, Any]


def find_thresholds(exp_dir: Path, origin: Mapping[str, Any], labels: LabelTable) -> FoundThresholds | None:
    """The thresholds of the newest evaluation of these weights on valid, else on eval; None without any.

    origin: what `ChosenWeights.origin` gives. Thresholds that lack a class, or are damaged, are named and
    passed over.
    """
    for evaluation in find_evaluations(exp_dir, origin):
        path = evaluation.folder / "thresholds.json"
        try:
            thresholds = read_thresholds(path, labels)
            content = path.read_bytes()
        except DataError as error:
            logger.warning("thresholds are not packed: %s", error)
            continue
        logger.info("thresholds of %s, tuned on %s, are packed too", evaluation.folder, thresholds.tuned_on)
        conditions = {key: evaluation.info.get(key) for key in ("windows", "precision")}
        about = {"evaluation": evaluation.folder.name, "tuned_on": thresholds.tuned_on, **conditions}
        return FoundThresholds(content, about)
    return None


def find_evaluations(exp_dir: Path, origin: Mapping[str, Any]) -> list[Evaluation]:
    """The evaluations of these weights, those on valid first, and of each split the newest first."""
    found = sorted(exp_dir.glob("eval_*/metrics.json"), key=lambda path: -path.stat().st_mtime_ns)
    same = [evaluation for path in found if (evaluation := read_same(path.parent, origin))]
    return sorted(same, key=lambda evaluation: SPLITS.index(evaluation.split))


def read_same(folder: Path, origin: Mapping[str, Any]) -> Evaluation | None:
    """The evaluation in a folder, if it is of these weights."""
    try:
        evaluation = read_evaluation(folder)
    except DataError as error:
        logger.warning("%s", error)
        return None
    info = evaluation.info
    if evaluation.split not in SPLITS or not info.get("sha256") or info["sha256"] != origin["sha256"]:
        return None
    # Evaluations of old say it by the name alone.
    if "kind" not in info:
        return evaluation if info.get("weights") == origin["name"] else None
    same = all(info.get(key) == origin[key] for key in ("kind", "between"))
    return evaluation if same else None
