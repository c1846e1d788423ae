"""What an ensemble and each of its members are worth on the same clips, and how far the ensemble is ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiotag.evaluation.comparison import Aligned
from audiotag.evaluation.ensemble import MemberScores
from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.mixture import Combine, Mixture

SHOWN = ("mAP", "mAUC", "d_prime", "f1_micro", "accuracy", "loss")


@dataclass(frozen=True)
class Part:
    """A member, or the whole, of an ensemble with what was measured of it.

    weight: None for the whole. intervals, draws_of_map: empty and None without resamplings.
    """

    name: str
    weight: float | None
    metrics: dict[str, float | int | None]
    intervals: dict[str, list[float]]
    draws_of_map: NDArray | None


def measure(
    aligned: Aligned,
    weights: NDArray,
    combined: NDArray,
    *,
    resamplings: int = 0,
    seed: int = 0,
    zero_without_positives: bool = False,
) -> list[Part]:
    """What each member and, in the end, the ensemble is worth, all under the same resamplings of the clips.

    combined: logits (N,C) of the ensemble.
    """
    options = {"zero_without_positives": zero_without_positives}
    names, shares = [*aligned.names, "ensemble"], [*map(float, weights), None]
    parts = []
    for name, weight, logits in zip(names, shares, [*aligned.logits, combined], strict=True):
        summary = compute_metrics(logits, aligned.labels, ids=aligned.ids, **options).summary
        bounds: dict[str, list[float]] = {}
        of_map = None
        if resamplings:
            # scipy is imported only where intervals are asked for.
            from audiotag.evaluation.bootstrap import intervals, resample
            from audiotag.evaluation.resampling import Resampled

            # One after the other: made ready, each takes hundreds of MB. The seed makes the draws the same.
            system = Resampled(logits, aligned.labels, **options)
            [draws] = resample([system], len(aligned.ids), resamplings, seed=seed)
            bounds, of_map = intervals(draws, summary), draws.metrics["mAP"]
        parts.append(Part(name, weight, summary, bounds, of_map))
    return parts


def gain(parts: Sequence[Part]) -> dict[str, Any] | None:
    """By how much the ensemble's mAP is above that of the best member, as plain values; None without mAP."""
    *members, whole = parts
    if any(part.metrics["mAP"] is None for part in parts):
        return None
    best = max(members, key=lambda part: part.metrics["mAP"])
    result: dict[str, Any] = {"over": best.name, "mAP": whole.metrics["mAP"] - best.metrics["mAP"]}
    if whole.draws_of_map is not None:
        from audiotag.evaluation.bootstrap import LEAST_SHARE, paired_difference

        drawn = np.stack([best.draws_of_map, whole.draws_of_map])
        there = np.isfinite(drawn).all(axis=0)
        if there.mean() >= LEAST_SHARE:
            measured = best.metrics["mAP"], whole.metrics["mAP"]
            found = paired_difference(measured, drawn[:, there])
            result.update(low=found.low, high=found.high, p_value=found.p_value)
    return result


def describe_members(
    members: Sequence[MemberScores], parts: Sequence[Part], how: Combine, weighing: str
) -> dict[str, Any]:
    """What an evaluation's info keeps of an ensemble, from its members' infos and what was measured.

    weighing: how the weights came about, in words.
    """
    rows = [
        {
            "name": part.name,
            "weight": part.weight,
            "metrics": {name: part.metrics[name] for name in SHOWN},
            "intervals": {name: part.intervals[name] for name in SHOWN if name in part.intervals},
        }
        for part in parts
    ]
    for row, member in zip(rows, members, strict=False):
        row["scores"] = str(member.folder)
        row["weights_in_words"] = member.info.get("weights_in_words")
    return {"combine": how, "weighing": weighing, "parts": rows, "gain": gain(parts)}


def cumulate(aligned: Aligned, how: Combine, *, zero_without_positives: bool = False) -> list[dict[str, Any]]:
    """Metrics of each member, and of the mean of all up to it, all alike, in their order."""
    options = {"zero_without_positives": zero_without_positives}
    mixture, rows = Mixture(how), []
    for name, logits in zip(aligned.names, aligned.logits, strict=True):
        mixture.add(logits)
        single, cumulative = (
            compute_metrics(scores, aligned.labels, ids=aligned.ids, **options).summary
            for scores in (logits, mixture.logits())
        )
        rows.append(
            {
                "name": name,
                "single": {metric: single[metric] for metric in SHOWN},
                "cumulative": {metric: cumulative[metric] for metric in SHOWN},
            }
        )
    return rows
