"""What a report says about the data: clips, hours, loudness and features of every split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audiotag.evaluation.results import Evaluation
from audiotag.evaluation.tables import Table, number, percent, share


def coverage_of(evaluation: Evaluation) -> Mapping[str, Any]:
    """The coverage of the evaluated split that the evaluation carries; empty when it carries none."""
    return (evaluation.info.get("coverage") or {}).get(evaluation.split, {})


def coverage_share(evaluation: Evaluation) -> str:
    """The share of the evaluated split's listed clips that were present."""
    counts = coverage_of(evaluation)
    return percent(counts.get("present", 0), counts.get("listed", 0))


def data_section(coverage: Mapping[str, Any]) -> str:
    """A table with a line for every split, and what is to be known of all of them.

    Loudness and features have a column when any split tells of them: older coverage does not.
    """
    splits = {name: coverage[name] for name in ("train", "valid", "eval") if name in coverage}
    if not splits:
        return ""
    columns = ["split", "clips present", "hours"]
    has_loudness = any("loudness_dbfs" in counts for counts in splits.values())
    has_features = any("features" in counts for counts in splits.values())
    columns += ["median loudness, dBFS"] if has_loudness else []
    columns += ["feature mean", "feature std"] if has_features else []
    table = Table([*columns, "skipped"], [], frozenset(columns[2:]))
    for name, counts in splits.items():
        row = [name, share(counts["present"], counts["listed"]), number(counts["seconds"] / 3600, 2)]
        if has_loudness:
            row.append(number(counts.get("loudness_dbfs", {}).get("median"), 1))
        if has_features:
            features = counts.get("features", {})
            row += [number(features.get("mean"), 3), number(features.get("std"), 3)]
        table.rows.append([*row, skipped_text(counts) or "none"])
    facts = [f"- {name}: {value}" for name, value in (coverage.get("notes") or {}).items()]
    facts += [
        f"- selected on {counts['same_as']}: `{name}` is `{counts['same_as']}` here, so that the best epoch "
        "was chosen on the evaluation clips"
        for name, counts in splits.items()
        if "same_as" in counts
    ]
    facts += [
        f"- selected on a part of {counts['part_of']}: the clips of `{name}` are some of "
        f"`{counts['part_of']}`, so that the best epoch was chosen on evaluation clips"
        for name, counts in splits.items()
        if "part_of" in counts
    ]
    return "\n\n".join(["### Data", table.markdown(), *(["\n".join(facts)] if facts else [])])


def skipped_text(counts: Mapping[str, Any]) -> str:
    """Reasons and numbers of skipped clips."""
    return ", ".join(f"{reason}: {count}" for reason, count in counts.get("skipped", {}).items() if count)
