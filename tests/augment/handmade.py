"""Batches made by hand, and what a uniform draw must look like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.stats import chisquare

from audiotag.augment.choices import Choices
from audiotag.augment.clips import Clips
from audiotag.frontend import Frontend


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Gaussian values of any shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@lru_cache
def frontend(preset: str) -> Frontend:
    """The front end of a preset."""
    return Frontend(preset)


def clips_of(
    values: torch.Tensor,
    lengths: Sequence[int] | None = None,
    targets: torch.Tensor | None = None,
    *,
    preset: str = "icefall80",
    **settings: Any,
) -> Clips:
    """Clips of values (B,S) or (B,T,F), padding written past their lengths."""
    sizes = np.full(len(values), values.shape[1]) if lengths is None else np.asarray(lengths)
    targets = torch.zeros(len(values), 1) if targets is None else targets
    clips = Clips(values=values, lengths=sizes, targets=targets, frontend=frontend(preset), **settings)
    return clips.ended(sizes)


def batch_of(values: torch.Tensor, lengths: Sequence[int], labels: torch.Tensor, **more: Any) -> dict:
    """A batch as loaders yield it."""
    padded = clips_of(values, lengths).values
    ids = [f"clip {row}" for row in range(len(values))]
    return {"inputs": padded, "lengths": torch.tensor(lengths), "labels": labels, "ids": ids, **more}


def choices(seed: int = 0) -> Choices:
    """The choices of some augmentation for the batch of this number."""
    return Choices((1, 2, seed), "any")


def many_choices(count: int) -> Iterator[Choices]:
    """The choices for several batches."""
    return (choices(seed) for seed in range(count))


def assert_uniform(numbers: Sequence[int] | np.ndarray, lowest: int, highest: int) -> None:
    """Integers that fill [lowest, highest] evenly, both ends reached."""
    counts = np.bincount(np.asarray(numbers).ravel() - lowest, minlength=highest - lowest + 1)
    assert len(counts) == highest - lowest + 1
    assert counts[0] > 0
    assert counts[-1] > 0
    assert chisquare(counts).pvalue > 1e-3
