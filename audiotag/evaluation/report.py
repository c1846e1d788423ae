"""RESULTS.md and its pictures: what an experiment folder holds, for people to read."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from audiotag.atomic import atomic_write
from audiotag.errors import AudiotagError, ConfigError, DataError
from audiotag.evaluation.coverage import coverage_share, data_section
from audiotag.evaluation.curves import read_curves
from audiotag.evaluation.evaluationsection import evaluation_section
from audiotag.evaluation.freshness import stale_note
from audiotag.evaluation.metricnames import TUNED_NAMES
from audiotag.evaluation.results import Evaluation, read_evaluation
from audiotag.evaluation.tables import Table, interval, number
from audiotag.evaluation.trainingsection import training_section

# Column of the results table: key of the metrics.
RESULT_COLUMNS = {
    "mAP": "mAP",
    "mAUC": "mAUC",
    "d'": "d_prime",
    "F1 micro": "f1_micro",
    "F1 macro": "f1_macro",
    "accuracy": "accuracy",
    "loss": "loss",
}
COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


def write_report(
    exp_dir: Path,
    evaluations: Sequence[Evaluation],
    *,
    title: str | None = None,
    stale: Sequence[Evaluation] = (),
) -> Path:
    """Write RESULTS.md and its PNGs into the experiment folder.

    title: what the experiment is; None takes the title in its config.yaml. stale: evaluations that are left
        out, since their checkpoints are others now.
    """
    config = read_config(exp_dir / "config.yaml")
    curves = read_curves(exp_dir / "tensorboard")
    # Ensembles have no configuration of a run, and were not trained.
    ensembles = all("ensemble" in evaluation.info for evaluation in evaluations)
    if title is None:
        title = (evaluations[0].info if ensembles else config).get("title", "")
    sections = [
        "# RESULTS",
        environment_section(evaluations),
        f"## {exp_dir.resolve().name}" + (f": {title}" if title else ""),
        results_table(evaluations).markdown(),
        stale_note(stale),
        intervals_section(evaluations),
        means_note(evaluations),
        data_section(evaluations[0].info.get("coverage") or {}),
        "" if ensembles else training_section(curves, config, exp_dir, evaluations),
        *(evaluation_section(evaluation, exp_dir) for evaluation in evaluations),
    ]
    path = exp_dir / "RESULTS.md"
    with atomic_write(path) as file:
        file.write("\n\n".join(section for section in sections if section) + "\n")
    return path


def find_evaluations(exp_dir: Path) -> list[Evaluation]:
    """The finished evaluations of an experiment: eval first, then valid, each by folder name."""
    if not exp_dir.is_dir():
        raise DataError(f"experiment folder not found: {exp_dir}; train and evaluate first (stages 5 and 6)")
    folders = [path.parent for path in exp_dir.glob("eval_*/metrics.json")]
    if not folders:
        raise DataError(f"no evaluation in {exp_dir} (no eval_*/metrics.json); run stage 6 first")
    return sorted((read_evaluation(folder) for folder in folders), key=place_in_table)


def place_in_table(evaluation: Evaluation) -> tuple:
    """Sort key: eval before other splits, epoch-9 before epoch-10."""
    parts = re.split(r"(\d+)", evaluation.folder.name)
    return (
        evaluation.split != "eval",
        evaluation.split,
        [int(part) if part.isdigit() else part for part in parts],
    )


def read_config(path: Path) -> dict[str, Any]:
    """The stored configuration as plain dictionaries; empty when there is none."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not valid YAML ({error})") from None
    return tree if isinstance(tree, dict) else {}


def results_table(evaluations: Sequence[Evaluation]) -> Table:
    """One line per evaluation: what was evaluated and the metrics that papers compare."""
    numeric = frozenset({"clips", "classes", *RESULT_COLUMNS})
    table = Table(["split", "weights", "clips", "coverage", "classes", *RESULT_COLUMNS], [], numeric)
    for evaluation in evaluations:
        metrics = evaluation.metrics
        counted = metrics["num_classes"] - metrics["num_classes_without_positives"]
        table.rows.append(
            [
                evaluation.split,
                evaluation.weights + (" (selected on eval)" if evaluation.selected_on_eval else ""),
                number(metrics["num_clips"]),
                coverage_share(evaluation),
                f"{counted}/{metrics['num_classes']}",
                *(number(metrics[key]) for key in RESULT_COLUMNS.values()),
            ]
        )
    return table


def intervals_section(evaluations: Sequence[Evaluation]) -> str:
    """A table of the confidence intervals of the results table, and how they were found."""
    resampled = [evaluation for evaluation in evaluations if evaluation.intervals]
    if not resampled:
        return ""
    table = Table(["split", "weights", *RESULT_COLUMNS], [], frozenset(RESULT_COLUMNS))
    for evaluation in resampled:
        cells = [interval(evaluation.intervals.get(key)) for key in RESULT_COLUMNS.values()]
        table.rows.append([evaluation.split, evaluation.weights, *cells])
    times = " or ".join(f"{count:,}" for count in sorted({one.resamplings for one in resampled}))
    return (
        f"95 % confidence intervals over the choice of clips, from {times} resamplings of the clips "
        f"(percentiles, moved so that their mean is the measured value):\n\n{table.markdown()}"
    )


def means_note(evaluations: Sequence[Evaluation]) -> str:
    """What the numbers of the results table mean."""
    rule = "are left out of all means"
    if any(evaluation.zero_without_positives for evaluation in evaluations):
        rule = "count as AP 0 in mAP and are left out of the other means"
    selected = ""
    if any(evaluation.selected_on_eval for evaluation in evaluations):
        selected = (
            " Selected on eval: the best epoch was chosen by its score on the evaluation clips themselves, "
            "or the last one by stopping early on them, which makes that score optimistic."
        )
    return (
        "mAP and mAUC are unweighted means over classes, d' is that of mAUC; classes without positive clips "
        f"{rule} (column `classes`: with positives/all). F1 is taken at probability 0.5; accuracy is "
        "the share of clips whose highest score is their first label. Coverage is the share of listed clips "
        f"that were present.{selected}"
    )


def environment_section(evaluations: Sequence[Evaluation]) -> str:
    """Versions and git state of the first evaluation."""
    provenance = evaluations[0].info.get("provenance") or {}
    lines = [f"- {name}: `{value}`" for name, value in provenance.items() if name not in ("command", "host")]
    return "\n".join(["## Environments", "", *lines]) if lines else ""


def check_requirements(requirements: Sequence[str], evaluations: Sequence[Evaluation]) -> None:
    """Raise unless every evaluation meets every requirement, such as `mAP>=0.5`.

    Metrics at tuned thresholds are asked only of those that have them, at least one.
    """
    for requirement in requirements:
        match = re.fullmatch(r"\s*(\w+)\s*(>=|<=|>|<)\s*(\S+)\s*", requirement)
        try:
            key, sign, bound = match.groups() if match else (None, None, None)
            bound = float(bound)
        except (TypeError, ValueError):
            raise ConfigError(f"--require {requirement}: expected METRIC>=NUMBER, such as mAP>=0.5") from None
        with_metric = [evaluation for evaluation in evaluations if key in evaluation.metrics]
        if key in TUNED_NAMES:
            # Only evaluations of other clips than those that the thresholds were tuned on have it.
            if not with_metric:
                raise ConfigError(
                    f"--require {requirement}: no evaluation has {key}, which needs thresholds of valid: "
                    "evaluate both (evaluation.splits: [valid, eval])"
                )
        elif lacking := [evaluation for evaluation in evaluations if key not in evaluation.metrics]:
            known = ", ".join(lacking[0].metrics)
            raise ConfigError(f"--require {requirement}: unknown metric '{key}' (known: {known})")
        for evaluation in with_metric:
            value = evaluation.metrics[key]
            if value is None or not COMPARISONS[sign](value, bound):
                raise AudiotagError(
                    f"{evaluation.folder}: {key} is {number(value)}, required {sign} {bound:g} "
                    f"({evaluation.split}, {evaluation.weights})"
                )
