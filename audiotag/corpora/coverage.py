"""Count what stage 1 found: clips present of clips listed, their lengths and levels, per split and class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from audiotag.corpora.manifests import SplitReport
from audiotag.labels import LabelTable


def coverage_of(report: SplitReport, table: LabelTable) -> dict[str, Any]:
    """A split's entry in coverage.json."""
    present: Counter[int] = Counter()
    seconds: Counter[int] = Counter()
    for clip in report.clips:
        for label in set(clip.labels):
            present[label] += 1
            seconds[label] += clip.duration_s
    durations = [clip.duration_s for clip in report.clips]
    levels = [clip.content.level_dbfs for clip in report.clips if clip.content.level_dbfs is not None]
    return {
        "listed": report.num_listed,
        "present": len(report.clips),
        "skipped": report.skipped_by_kind,
        "seconds": round(sum(durations), 3),
        "duration_s": summary_of(durations),
        "loudness_dbfs": summary_of(levels),
        "classes": {
            label.mid: {
                "listed": report.listed_labels[label.index],
                "present": present[label.index],
                "seconds": round(float(seconds[label.index]), 3),
            }
            for label in table
        },
        **({"same_as": report.same_as} if report.same_as else {}),
        **({"part_of": report.part_of} if report.part_of else {}),
    }


def summary_of(values: Sequence[float]) -> dict[str, float | None]:
    """Least, middle, mean and largest value; None where there are none, as the levels of silent clips."""
    if not values:
        return dict.fromkeys(("min", "median", "mean", "max"))
    array = np.asarray(values)
    return {
        name: round(float(function(array)), 3)
        for name, function in (("min", np.min), ("median", np.median), ("mean", np.mean), ("max", np.max))
    }
