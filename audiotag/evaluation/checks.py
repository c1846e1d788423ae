"""Whether scores and labels can be measured, and which labels are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from audiotag.errors import DataError


def check(
    logits: np.ndarray, labels: np.ndarray, ids: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Logits as floats, positives as bool, and which pairs are known as bool (None when all are).

    A DataError names what does not fit. A label is 0, 1, or NaN where it is not known.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or logits.shape != labels.shape or 0 in logits.shape:
        raise DataError(
            f"metrics need scores and labels of the same shape (clips, classes), at least one of each; "
            f"found scores {logits.shape} and labels {labels.shape}"
        )
    if logits.dtype not in (np.float32, np.float64):
        logits = logits.astype(np.float32)
    bad = ~np.isfinite(logits).all(1)
    if bad.any():
        raise DataError(
            f"scores of {bad.sum()} of {len(bad)} clips are not finite: {name_clips(bad, ids)}; "
            "look at these clips, or evaluate another checkpoint"
        )
    positive = labels == 1
    hard = positive | (labels == 0)
    known = None
    if not hard.all():
        known = hard
        bad = ~(hard | np.isnan(labels)).all(1)
        if bad.any():
            raise DataError(
                f"labels of {bad.sum()} of {len(bad)} clips are not 0 or 1: {name_clips(bad, ids)}; "
                "ranking metrics need hard labels, not mixed or smoothed ones"
            )
    return logits, positive, known


def name_clips(bad: np.ndarray, ids: Sequence[str] | None, most: int = 5) -> str:
    """The first few clips of a mask, by id where ids are known, else by row."""
    rows = np.flatnonzero(bad)
    names = [ids[row] if ids is not None else f"row {row}" for row in rows[:most]]
    return ", ".join(names) + (", ..." if len(rows) > most else "")
