"""The part of a report about training: settings, command, environment, course, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audiotag.evaluation.curves import Curve
from audiotag.evaluation.metricnames import less_is_better
from audiotag.evaluation.results import Evaluation
from audiotag.evaluation.tables import Table
from audiotag.evaluation.trainingplot import plot_training

# Of what provenance tells: what is no version of a program.
NOT_VERSIONS = ("date", "command", "host", "git")


def training_section(
    curves: Mapping[str, Curve],
    config: Mapping[str, Any],
    exp_dir: Path,
    evaluations: Sequence[Evaluation] = (),
) -> str:
    """The configuration in short, by what it was trained, how training went, and its curves."""
    parts = ["### Training"]
    settings = {name: section for name, section in config.items() if isinstance(section, dict)}
    metric = settings.get("training", {}).get("best_metric", "mAP")
    loss = settings.get("loss", {}).get("name", "bce")
    trained = [evaluation.info["training"] for evaluation in evaluations if evaluation.info.get("training")]
    # Parts of a run may have had other processes: the last one counts.
    processes = (trained[0].get("processes") if trained else None) or 1
    rows = [
        [
            name,
            ", ".join(f"{key} {plain(value)}" for key, value in section.items() if value is not None)
            or "none",
        ]
        for name, section in settings.items()
        if name not in ("corpus", "evaluation")
    ]
    if rows:
        parts.append(Table(["section", "settings"], rows).markdown())
        parts.append(
            f"All settings, with seed {config.get('seed')}, are in [config.yaml](config.yaml). The same run:"
        )
        # The stored config is complete, so that this line does not depend on the recipe's YAML of today.
        launcher = f"torchrun --standalone --nproc-per-node {processes}" if processes > 1 else "python"
        command = f"{launcher} -m audiotag.bin.train --config {exp_dir}/config.yaml --exp-dir exp/NEW_TAG"
        parts.append(f"```\n{command}\n```")
    parts += trainings(evaluations)
    if not curves:
        parts.append(
            f"There are no TensorBoard files in `{exp_dir / 'tensorboard'}`, hence no training curves."
        )
        return "\n\n".join(parts)
    facts = [f"{max(int(curve.steps[-1]) for curve in curves.values()):,} updates"]
    if "train/loss" in curves:
        facts.append(f"training loss at the end {curves['train/loss'].last:.4f}")
    if f"valid/{metric}" in curves:
        step, value = curves[f"valid/{metric}"].best(highest=not less_is_better(metric))
        facts.append(f"best validation {metric} {value:.4f} at update {step:,}")
    if "train/clips_per_s" in curves:
        speeds = sorted(curves["train/clips_per_s"].values)
        facts.append(f"{speeds[len(speeds) // 2]:.1f} clips/s (median)")
    parts.append("; ".join(facts) + ".")
    plot_training(dict(curves), exp_dir / "training.png", loss=loss, metric=metric)
    parts.append(f"![Loss, validation {metric} and learning rate over the updates](training.png)")
    return "\n\n".join(parts)


def trainings(evaluations: Sequence[Evaluation]) -> list[str]:
    """A line on how the evaluated checkpoints were trained; with their names where there are several."""
    found: dict[str, dict[str, None]] = {}
    for evaluation in evaluations:
        if text := trained_with(evaluation.info.get("training") or {}):
            found.setdefault(text, {})[evaluation.weights] = None
    if len(found) < 2:
        return list(found)
    return [f"{', '.join(weights)}: {text}" for text, weights in found.items()]


def trained_with(training: Mapping[str, Any]) -> str:
    """By how many processes, with which versions and from which weights a checkpoint was trained."""
    processes = training.get("processes")
    facts = [f"{processes} process{'' if processes == 1 else 'es'}"] if processes else []
    provenance = training.get("provenance") or {}
    versions = [f"{name} {value}" for name, value in provenance.items() if name not in NOT_VERSIONS]
    if "git" in provenance:
        facts.append(f"commit `{provenance['git']}`")
    facts += [", ".join(versions)] if versions else []
    trained = f"Trained with {'; '.join(facts)}." if facts else ""
    return " ".join(filter(None, [trained, started_from(training.get("init") or {})]))


def started_from(init: Mapping[str, Any]) -> str:
    """The model that a training began with."""
    if not init:
        return ""
    digests = ", ".join(f"{name}, SHA-256 {digest[:8]}" for name, digest in init["sha256"].items())
    changes = "; ".join(f"{kind}: {', '.join(init[kind])}" for kind in ("adapted", "fresh") if init[kind])
    return f"Started from {init['model']} ({digests})" + (f"; {changes}." if changes else ".")


def plain(value: Any) -> str:
    """A setting as short text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} {plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
