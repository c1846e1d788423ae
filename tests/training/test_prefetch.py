"""Prefetching without a GPU: batches go through as they are, one at a time."""

from __future__ import annotations

import torch

from audiotag.training.prefetch import prefetch


def test_batches_pass_through_on_a_cpu():
    asked = []

    def batches():
        try:
            for number in range(3):
                asked.append(number)
                yield {"inputs": torch.full((1, 2), number), "ids": [str(number)]}
        finally:
            asked.append("closed")

    through = prefetch(batches(), torch.device("cpu"))
    first = next(through)
    assert asked == [0]
    assert first["ids"] == ["0"]
    next(through)
    through.close()
    assert asked == [0, 1, "closed"]
