"""A comparison of systems as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from audiotag.evaluation.comparison import Aligned, Comparison
from audiotag.evaluation.metricnames import METRIC_NAMES, less_is_better
from audiotag.evaluation.tables import Table, interval, number

EXTREMES = 5
# With fewer positives, resampling the clips says too little of how far chance moves the AP of a class.
LEAST_POSITIVES = 10


def describe(
    aligned: Aligned,
    comparisons: Sequence[Comparison],
    resamplings: int,
    *,
    zero_without_positives: bool = False,
) -> str:
    """The whole comparison in Markdown."""
    zero = " Classes without positives count as AP 0 in mAP." if zero_without_positives else ""
    parts = [
        f"{len(aligned.ids):,} clips, {len(aligned.class_names)} classes, {resamplings:,} paired resamplings "
        f"of the clips.{zero} A is {aligned.names[0]}."
    ]
    for name, comparison in zip(aligned.names[1:], comparisons, strict=True):
        parts.append(f"## B is {name}")
        parts.append(metrics_table(comparison).markdown())
        parts.append(wins(comparison))
        parts.append(class_table(aligned, comparison).markdown())
    return "\n\n".join(parts) + "\n"


def metrics_table(comparison: Comparison) -> Table:
    """A line for each metric; `better` names a system when the interval does not hold 0."""
    columns = ["A", "B", "B - A", "95 % interval", "p"]
    table = Table(["metric", *columns, "better"], [], frozenset(columns))
    for name in METRIC_NAMES:
        if name not in comparison.differences:
            continue
        difference = comparison.differences[name]
        b_is_higher = "-" if difference.low <= 0 <= difference.high else ("B" if difference.low > 0 else "A")
        better = {"A": "B", "B": "A"}.get(b_is_higher, "-") if less_is_better(name) else b_is_higher
        first, other = comparison.first.summary[name], comparison.other.summary[name]
        table.rows.append(
            [
                name,
                number(first),
                number(other),
                f"{difference.value:+.4f}",
                interval((difference.low, difference.high)),
                f"{difference.p_value:.3f}",
                better,
            ]
        )
    return table


def wins(comparison: Comparison) -> str:
    """In how many classes each system has the higher AP."""
    pairs = zip(comparison.class_differences, comparison.first.positives.tolist(), strict=True)
    there = [(one, positives) for one, positives in pairs if one.value == one.value]
    b, a = sum(one.value > 0 for one, _ in there), sum(one.value < 0 for one, _ in there)
    told = [one for one, positives in there if positives >= LEAST_POSITIVES]
    clear_b, clear_a = sum(one.low > 0 for one in told), sum(one.high < 0 for one in told)
    return (
        f"AP of {len(there)} classes: B is higher in {b}, A in {a}, equal in {len(there) - a - b}. Of the "
        f"{len(told)} classes with {LEAST_POSITIVES} positives or more, the class's own 95 % interval does "
        f"not hold 0 in {clear_b} for B and {clear_a} for A; without any difference 5 to 10 % of them "
        f"(about {0.05 * len(told):.0f} to {0.1 * len(told):.0f}) would do so by chance."
    )


def class_table(aligned: Aligned, comparison: Comparison) -> Table:
    """The classes that gained and lost most AP from A to B."""
    columns = ["positives", "AP of A", "AP of B", "B - A", "95 % interval"]
    table = Table(["class", *columns], [], frozenset(columns))
    ranked = [index for index, one in enumerate(comparison.class_differences) if one.value == one.value]
    ranked.sort(key=lambda index: -comparison.class_differences[index].value)
    if len(ranked) > 2 * EXTREMES:
        ranked = ranked[:EXTREMES] + ranked[-EXTREMES:]
    for index in ranked:
        one, positives = comparison.class_differences[index], int(comparison.first.positives[index])
        table.rows.append(
            [
                aligned.class_names[index],
                number(positives),
                number(comparison.first.ap[index]),
                number(comparison.other.ap[index]),
                f"{one.value:+.4f}",
                interval((one.low, one.high)) if positives >= LEAST_POSITIVES else "-",
            ]
        )
    return table
