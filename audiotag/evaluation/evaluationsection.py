"""The part of a report about one evaluation: conditions, coverage, all metrics, classes, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audiotag.evaluation.coverage import coverage_of, skipped_text
from audiotag.evaluation.ensembletext import describe_ensemble
from audiotag.evaluation.metricnames import METRIC_NAMES, TUNED_NAMES
from audiotag.evaluation.perclass import ClassResult
from audiotag.evaluation.plots import plot_per_class, plot_precision_recall
from audiotag.evaluation.reliability import plot_reliability
from audiotag.evaluation.results import Evaluation
from audiotag.evaluation.tables import Table, interval, number, share

ALL_CLASSES_UP_TO = 30
EXTREMES = 10


def evaluation_section(evaluation: Evaluation, exp_dir: Path) -> str:
    """One evaluation in full: checkpoints, command, coverage, classes and pictures."""
    name, metrics, info = evaluation.folder.name, evaluation.metrics, evaluation.info
    parts = [f"### {evaluation.split}: {evaluation.weights}"]
    lines = [f"- folder: [`{name}`]({name}) (scores.npz, metrics.json, per_class.csv)"]
    lines += conditions(info)
    present = coverage_of(evaluation)
    if present:
        lines.append(
            f"- coverage: {share(present['present'], present['listed'])} listed clips present, "
            f"skipped: {skipped_text(present) or 'none'}"
        )
    missing = evaluation.classes_without_positives
    lines.append(
        f"- classes without positive clips: {len(missing)}" + (f" ({', '.join(missing)})" if missing else "")
    )
    parts.append("\n".join(lines))
    command = (info.get("provenance") or {}).get("command")
    if command:
        parts.append(f"Evaluated with\n\n```\n{command}\n```")
    if ensemble := info.get("ensemble"):
        parts.append(describe_ensemble(ensemble))

    parts.append(metrics_table(evaluation).markdown())
    parts.append(class_tables(evaluation.classes))
    bars, curves = f"{name}_per_class_ap.png", f"{name}_precision_recall.png"
    plot_per_class(evaluation.classes, metrics["mAP"], exp_dir / bars)
    plot_precision_recall(evaluation.scores(), evaluation.classes, exp_dir / curves)
    parts.append(f"![Average precision per class]({bars})")
    parts.append(f"![Precision-recall curves]({curves})")
    if evaluation.bins is not None:
        reliability = f"{name}_reliability.png"
        plot_reliability(evaluation.bins, metrics.get("ece_micro"), exp_dir / reliability)
        parts.append(f"![Reliability of the probabilities]({reliability})")
    return "\n\n".join(parts)


def conditions(info: Mapping[str, Any]) -> list[str]:
    """Which weights were scored, and how, as far as it was recorded."""
    lines = [f"- weights: {info['weights_in_words']}"] if info.get("weights_in_words") else []
    if files := info.get("checkpoints"):
        lines.append(f"- checkpoints: {with_digests(files, info)}")
    lines += origins(info)
    processes = info.get("processes") or 1
    facts = [str(info[key]) for key in ("device", "precision") if info.get(key)]
    facts += [f"{processes} processes"] if processes > 1 else []
    facts += [f"{info['clips_per_s']:.1f} clips/s"] if info.get("clips_per_s") else []
    if info.get("batch_size"):
        # Absent from evaluations of old, all of which were of encoders that read each clip by itself.
        shared = "" if info.get("batch_independent", True) else ", whose clips depend on each other"
        facts.append(f"batches of {info['batch_size']}{shared}")
    if info.get("windows"):
        facts.append("windows: " + ", ".join(f"{key} {value}" for key, value in info["windows"].items()))
    return lines + (["- scored on " + "; ".join(facts)] if facts else [])


def with_digests(files: Sequence[str], origin: Mapping[str, Any]) -> str:
    """Names of files, each with its digest where that is known."""
    digests = origin.get("sha256") or {}
    return ", ".join(
        f"`{Path(file).name}`" + (f" (sha256 `{digests[file]}`)" if file in digests else "") for file in files
    )


def origins(info: Mapping[str, Any]) -> list[str]:
    """What averaged files were made of, and the averaged ones among these."""
    lines = []
    for file, origin in (info.get("averaged") or {}).items():
        lines.append(f"- `{Path(file).name}` was made of: {with_digests(origin['files'], origin)}")
        lines += origins(origin)
    return lines


def metrics_table(evaluation: Evaluation) -> Table:
    """Every metric with its interval and what it is."""
    table = Table(
        ["metric", "value", "95 % interval", "what it is"], [], frozenset({"value", "95 % interval"})
    )
    for name, meaning in {**METRIC_NAMES, **TUNED_NAMES}.items():
        if name in evaluation.metrics:
            bounds = interval(evaluation.intervals.get(name))
            table.rows.append([f"`{name}`", number(evaluation.metrics[name]), bounds, meaning])
    return table


def class_tables(classes: Sequence[ClassResult]) -> str:
    """All classes by AP, or the best and the worst of many."""
    ranked = sorted((one for one in classes if one.positives), key=lambda one: (-one.ap, one.index))
    if len(ranked) <= ALL_CLASSES_UP_TO:
        return class_table(ranked).markdown()
    best, worst = class_table(ranked[:EXTREMES]), class_table(ranked[: -EXTREMES - 1 : -1])
    return f"Best classes:\n\n{best.markdown()}\n\nWorst classes:\n\n{worst.markdown()}"


def class_table(classes: Sequence[ClassResult]) -> Table:
    """A line per class; the threshold is the probability that gives the best F1."""
    columns = ["positives", "AP", "AUC", "F1", "best F1", "threshold"]
    rows = [
        [one.name, *(map(number, (one.positives, one.ap, one.auc, one.f1, one.best_f1, one.threshold)))]
        for one in classes
    ]
    return Table(["class", *columns], rows, frozenset(columns))
