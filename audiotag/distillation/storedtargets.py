"""What loader processes take from stored scores: the soft targets of the clips of a batch.

Shapes: N clips of the training set, M stored ones, B clips of a batch, C classes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiotag.data.loading import Unreadable
from audiotag.distillation.softening import soften
from audiotag.errors import DataError


class StoredTargets:
    """Soft targets by the position of a clip in the training set; only the rows that are asked for are read.

    Args:
        scores: (M,C) float16, memory-mapped.
        rows: (N,) the row of each clip; None where they are in the same order.
        temperature, form, exclusive: see `soften`.
    """

    def __init__(
        self,
        scores: NDArray[np.float16],
        rows: NDArray[np.int64] | None,
        *,
        temperature: float,
        form: str,
        exclusive: bool,
    ) -> None:
        self.scores = scores
        self.rows = rows
        self.softness = {"temperature": temperature, "form": form, "exclusive": exclusive}

    def check(self, position: int, clip_id: str) -> None:
        """Treat a clip that could not be read when the scores were made like one that cannot be read now."""
        if np.isnan(self.scores[self.row(position), 0]):
            raise Unreadable(clip_id, "it could not be read when the teachers' scores were made")

    def __call__(self, positions: list[int]) -> Tensor:
        """Soft targets (B,C) in float32."""
        rows = [self.row(position) for position in positions]
        logits = self.scores[rows].astype(np.float32)
        return soften(torch.from_numpy(logits), **self.softness)

    def row(self, position: int) -> int:
        """The row of a clip."""
        return int(position) if self.rows is None else int(self.rows[position])


def rows_of(wanted: NDArray[np.bytes_], stored: NDArray[np.bytes_]) -> NDArray[np.int64] | None:
    """The row of each wanted id among the stored ones; None where both are the same, in the same order."""
    if np.array_equal(wanted, stored):
        return None
    if len(np.unique(stored)) < len(stored):
        raise DataError(
            "several clips go by one id, as in different sets of data.sources: which of the teachers' scores "
            "are whose cannot be told; train on features of the same clips that the teachers hear "
            "(features.storage on_the_fly)"
        )
    order = np.argsort(stored, kind="stable")
    places = np.searchsorted(stored, wanted, sorter=order).clip(max=len(stored) - 1)
    rows = order[places]
    absent = np.flatnonzero(stored[rows] != wanted)
    if len(absent):
        raise DataError(
            f"the teachers' scores lack {len(absent)} of {len(wanted)} clips, such as "
            f"{wanted[absent[0]].decode()}: run stage 1 again, so that plain and stored features are of the "
            "same clips"
        )
    return rows
