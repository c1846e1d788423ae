"""The table over the folds of a cross-validation: what each fold reached, the mean, and all clips together.

The epoch is either chosen by the mean over the folds of what validation measured, which is the published way
for ESC-50 and selects on the test folds where these are validated on, or it is the last one, or each fold is
taken as stage 6 has evaluated it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.atomic import atomic_write
from audiotag.errors import DataError
from audiotag.evaluation.metricnames import less_is_better
from audiotag.evaluation.report import environment_section, intervals_section, means_note, results_table
from audiotag.evaluation.results import Evaluation, read_evaluation, write_evaluation
from audiotag.evaluation.scores import Scores
from audiotag.evaluation.tables import Table, number
from audiotag.labels import LabelTable

logger = logging.getLogger(__name__)

RESAMPLINGS = 1000
# The names of weights that validation chose, each fold its own: best12, best12-avg3, best-step40.
CHOSEN = re.compile(r"^best-?(step)?\d+")


@dataclass(frozen=True)
class FoldRun:
    """What is known of one fold.

    Args:
        fold: its number.
        metric: what validation judged by.
        by_epoch: that metric at the end of each epoch.
        is_of_eval: whether validation was on the evaluation clips.
        title: of the configuration.
        labels: the classes.
        evaluations: those of stage 6.
    """

    fold: int
    metric: str
    by_epoch: dict[int, float]
    is_of_eval: bool
    title: str
    labels: LabelTable
    evaluations: list[Evaluation]


@dataclass(frozen=True)
class Line:
    """One line of the table: the metric of each fold, and how the weights were chosen, in words."""

    split: str
    weights: str
    values: list[float | None]

    @property
    def mean(self) -> float | None:
        """Mean over the folds; None where a fold has no value."""
        return None if None in self.values else float(np.mean(self.values))

    @property
    def std(self) -> float | None:
        """Deviation over the folds, of a sample (n - 1)."""
        return None if None in self.values or len(self.values) < 2 else float(np.std(self.values, ddof=1))


def epoch_lines(runs: Sequence[FoldRun]) -> list[Line]:
    """The epoch that is best on average over the folds, and each fold's last one, as validation found them.

    Without validations there are none.
    """
    common = sorted(set.intersection(*(set(run.by_epoch) for run in runs)))
    if not common:
        return []
    split = "eval" if runs[0].is_of_eval else "valid"
    sign = -1.0 if less_is_better(runs[0].metric) else 1.0
    # Of equal ones the earliest, as for the best checkpoint of a single run.
    best = max(common, key=lambda epoch: (sign * np.mean([run.by_epoch[epoch] for run in runs]), -epoch))
    chosen = "selected on the test folds" if split == "eval" else "selected on these clips"
    last = [max(run.by_epoch) for run in runs]
    shown = str(last[0]) if len(set(last)) == 1 else "/".join(map(str, last))
    return [
        Line(split, f"epoch {best}, the best on average ({chosen})", [run.by_epoch[best] for run in runs]),
        Line(
            split,
            f"epoch {shown}, the last ({'no selection' if len(set(last)) == 1 else chosen})",
            [run.by_epoch[epoch] for run, epoch in zip(runs, last, strict=True)],
        ),
    ]


def common_evaluations(runs: Sequence[FoldRun]) -> dict[tuple[str, str], list[Evaluation]]:
    """The evaluations that all folds have, by split and by weights as `common_name` calls them."""
    found: dict[tuple[str, str], dict[int, Evaluation]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            found.setdefault((evaluation.split, common_name(evaluation.weights)), {})[run.fold] = evaluation
    common = {}
    for (split, weights), by_fold in found.items():
        without = [str(run.fold) for run in runs if run.fold not in by_fold]
        if without:
            logger.warning(
                "%s, %s is left out: the folds %s have no such evaluation (stage 6 makes it)",
                split,
                weights,
                ", ".join(without),
            )
        else:
            common[split, weights] = [by_fold[run.fold] for run in runs]
    return common


def common_name(weights: str) -> str:
    """A choice of weights without what differs from fold to fold: the epoch that validation chose."""
    return CHOSEN.sub("best", weights)


def evaluation_lines(common: dict[tuple[str, str], list[Evaluation]], metric: str) -> list[Line]:
    """A line for each evaluation that all folds have."""
    lines = []
    for (split, weights), evaluations in common.items():
        on_eval = any(evaluation.selected_on_eval for evaluation in evaluations)
        note = " (selected on eval, by each fold)" if on_eval else ""
        lines.append(
            Line(split, f"stage 6: {weights}{note}", [one.metrics.get(metric) for one in evaluations])
        )
    return lines


def pool(exp_dir: Path, weights: str, evaluations: Sequence[Evaluation], labels: LabelTable) -> Evaluation:
    """The evaluation of all folds' clips together, each scored by the model that has not seen it.

    Raises DataError where folds share clips.
    """
    parts = [evaluation.scores() for evaluation in evaluations]
    try:
        scores = Scores(
            [clip for part in parts for clip in part.ids],
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )
    except (DataError, ValueError) as error:
        raise DataError(f"{exp_dir}: the folds' scores of eval do not go together: {error}") from None
    counts = [(one.info.get("coverage") or {}).get("eval", {}) for one in evaluations]
    info = {
        "split": "eval",
        "weights": weights,
        "weights_in_words": "of each fold its own",
        "folds": [str(evaluation.folder) for evaluation in evaluations],
        "selected_on": "eval" if any(one.selected_on_eval for one in evaluations) else None,
        "coverage": {"eval": {key: sum(one.get(key, 0) for one in counts) for key in ("listed", "present")}},
        "provenance": evaluations[0].info.get("provenance") or {},
    }
    folder = exp_dir / f"eval_eval_{weights}"
    zero = evaluations[0].zero_without_positives
    write_evaluation(folder, scores, labels, info=info, zero_without_positives=zero, bootstrap=RESAMPLINGS)
    return read_evaluation(folder)


def lines_table(lines: Sequence[Line], runs: Sequence[FoldRun]) -> Table:
    """The lines with a column for each fold, mean and deviation."""
    folds = [f"fold {run.fold}" for run in runs]
    table = Table(["split", "weights", *folds, "mean", "std"], [], frozenset([*folds, "mean", "std"]))
    for line in lines:
        cells = [number(value) for value in (*line.values, line.mean, line.std)]
        table.rows.append([line.split, line.weights, *cells])
    return table


def write_crossvalidation(exp_dir: Path, runs: Sequence[FoldRun]) -> Table:
    """Write RESULTS.md, crossvalidation.json and the folders of pooled scores; return the folds' table."""
    metric = runs[0].metric
    common = common_evaluations(runs)
    lines = [*epoch_lines(runs), *evaluation_lines(common, metric)]
    if not lines:
        raise DataError(
            f"{exp_dir}: the folds have neither validations nor an evaluation in common; run stage 6"
        )
    pooled = [
        pool(exp_dir, weights, evaluations, runs[0].labels)
        for (split, weights), evaluations in common.items()
        if split == "eval"
    ]
    table = lines_table(lines, runs)
    title = runs[0].title
    sections = [
        "# RESULTS",
        environment_section(pooled) if pooled else "",
        f"## {exp_dir.resolve().name}, {len(runs)} folds" + (f": {title}" if title else ""),
        f"{metric} of each fold, mean and deviation (of a sample, n - 1) over them:\n\n{table.markdown()}",
        selection_note(runs),
        "### All folds together" if pooled else "",
        results_table(pooled).markdown() if pooled else "",
        intervals_section(pooled),
        means_note(pooled) if pooled else "",
        "Each fold's own results: "
        + ", ".join(f"[fold {n}](fold{n}/RESULTS.md)" for n in (r.fold for r in runs)),
    ]
    with atomic_write(exp_dir / "crossvalidation.json") as file:
        json.dump(as_json(metric, lines, runs), file, indent=1)
        file.write("\n")
    with atomic_write(exp_dir / "RESULTS.md") as file:
        file.write("\n\n".join(section for section in sections if section) + "\n")
    return table


def selection_note(runs: Sequence[FoldRun]) -> str:
    """What the first two lines of the table are worth."""
    if not all(run.by_epoch for run in runs):
        return ""
    if not runs[0].is_of_eval:
        return "`valid` was held out of the training folds, so what it chose is not chosen on the test folds."
    return (
        "Selected on the test folds: the epoch of the first line is the one with the best mean over the "
        "folds on these same clips, as published results of ESC-50 choose it, which makes it optimistic. The "
        "last epoch is chosen by nothing."
    )


def as_json(metric: str, lines: Sequence[Line], runs: Sequence[FoldRun]) -> dict[str, Any]:
    """The same numbers for programs."""
    return {
        "metric": metric,
        "folds": [run.fold for run in runs],
        "lines": [
            {
                "split": line.split,
                "weights": line.weights,
                "values": line.values,
                "mean": line.mean,
                "std": line.std,
            }
            for line in lines
        ],
        "by_epoch": {
            str(run.fold): {str(epoch): run.by_epoch[epoch] for epoch in run.by_epoch} for run in runs
        },
    }
