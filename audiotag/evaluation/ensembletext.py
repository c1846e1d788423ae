"""What the results of an ensemble say of its members, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audiotag.evaluation.tables import Table, interval, number

COLUMNS = {
    "mAP": "mAP",
    "mAUC": "mAUC",
    "d'": "d_prime",
    "F1 micro": "f1_micro",
    "accuracy": "accuracy",
    "loss": "loss",
}


def describe_ensemble(ensemble: Mapping[str, Any]) -> str:
    """The members of an ensemble in Markdown, from `ensemble` in the info of its evaluation."""
    parts = [
        f"Mean of the {ensemble['combine']} of {len(ensemble['parts']) - 1} members, {ensemble['weighing']}.",
        members_table(ensemble).markdown(),
    ]
    if ensemble.get("gain"):
        parts.append(gain_in_words(ensemble["gain"]))
    if ensemble.get("cumulative"):
        parts.append(f"One after the other, and the mean of the {ensemble['combine']} of all up to each:")
        parts.append(cumulative_table(ensemble).markdown())
    return "\n\n".join(parts)


def members_table(ensemble: Mapping[str, Any]) -> Table:
    """A line for each member, and one for the ensemble."""
    parts = ensemble["parts"]
    bounds = ["95 % interval of mAP"] if any(part["intervals"] for part in parts) else []
    columns = ["weight", "mAP", *bounds, *list(COLUMNS)[1:]]
    table = Table(["member", *columns], [], frozenset(columns))
    for part in parts:
        metrics = part["metrics"]
        table.rows.append(
            [
                part["name"],
                number(part["weight"]),
                number(metrics["mAP"]),
                *([interval(part["intervals"].get("mAP"))] if bounds else []),
                *(number(metrics[key]) for name, key in COLUMNS.items() if name != "mAP"),
            ]
        )
    return table


def gain_in_words(gain: Mapping[str, Any]) -> str:
    """By how much the ensemble is better than its best member."""
    text = f"mAP of the ensemble less that of its best member ({gain['over']}): {gain['mAP']:+.4f}"
    if "low" in gain:
        bounds = interval((gain["low"], gain["high"]))
        text += f", 95 % interval {bounds}, p = {gain['p_value']:.3f} (paired resamplings of the clips)"
    return f"{text}."


def cumulative_table(ensemble: Mapping[str, Any]) -> Table:
    """Metrics of each member, and of the ensemble of all up to it."""
    names = {"single": "", "cumulative": "cumulative "}
    columns = [f"{prefix}{metric}" for metric in ("mAP", "mAUC", "d'") for prefix in names.values()]
    table = Table(["up to", *columns], [], frozenset(columns))
    for row in ensemble["cumulative"]:
        cells = [number(row[kind][COLUMNS[metric]]) for metric in ("mAP", "mAUC", "d'") for kind in names]
        table.rows.append([row["name"], *cells])
    return table
