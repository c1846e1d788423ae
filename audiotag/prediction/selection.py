"""Which classes are named of a file: the likeliest ones, or all whose score reaches a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from audiotag.evaluation.thresholds import probability
from audiotag.labels import Label, LabelTable

DEFAULT_TOP_K = 5


@dataclass(frozen=True)
class Tag:
    """A class that was heard, and how likely it is."""

    label: Label
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON; six digits are more than float32 is good for."""
        label = self.label
        return {
            "index": label.index,
            "mid": label.mid,
            "name": label.name,
            "probability": float(f"{self.probability:.6g}"),
        }


@dataclass(frozen=True)
class Selection:
    """A rule that chooses classes by their logits.

    Args:
        labels: the C classes.
        top_k: at most so many; None for any number.
        thresholds: (C,) logits that a class's must reach; None for no such rule.
    """

    labels: LabelTable
    top_k: int | None = DEFAULT_TOP_K
    thresholds: np.ndarray | None = None

    def choose(self, logits: np.ndarray) -> list[Tag]:
        """The classes chosen by logits (C,), the likeliest first; of equal ones the first in the labels."""
        order = np.argsort(-logits, kind="stable")
        if self.thresholds is not None:
            # In float64 both: a threshold lies between two scores, and must stay there.
            reached = logits.astype(np.float64) >= self.thresholds
            order = order[reached[order]]
        return [
            Tag(self.labels[index], probability(float(logits[index])))
            for index in order[: self.top_k].tolist()
        ]
