"""Clips shifted in a circle along time: waveforms as in BEATs, features as in AST."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from audiotag.augment.choices import Choices
from audiotag.augment.clips import Clips
from audiotag.frontend import SAMPLING_RATE


@dataclass(frozen=True)
class Roll:
    """Shifts waveforms inside their own lengths.

    Args:
        probability: chance that a clip is rolled.
        interval_s: shifts are multiples of this; 0 for any number of samples.
    """

    probability: float
    interval_s: float

    def __call__(self, clips: Clips, choices: Choices) -> Clips:
        shifts = choices.draw.integers(0, clips.lengths.max(), len(clips))
        shifts -= shifts % max(1, round(self.interval_s * SAMPLING_RATE))
        rolled = np.zeros_like(shifts)
        rows = choices.rows(self.probability, len(clips))
        rolled[rows] = shifts[rows]
        return roll(clips, rolled, clips.lengths)


@dataclass(frozen=True)
class FeatureRoll:
    """Shifts features inside what the model takes of each clip.

    With a fixed size that is all of it, padding included (AST), so a rolled clip ends only there.

    Args:
        frames: shifts are drawn from minus this to this less one.
    """

    frames: int

    def __call__(self, clips: Clips, choices: Choices) -> Clips:
        shifts = choices.draw.integers(-self.frames, self.frames, len(clips))
        rolled = roll(clips, shifts, clips.extents)
        return replace(rolled, lengths=np.where(shifts == 0, clips.lengths, clips.extents))


def roll(clips: Clips, shifts: np.ndarray, extents: np.ndarray) -> Clips:
    """What stood at k of each clip's first `extents` (B,) places now stands at k + `shifts` (B,), in a
    circle; the places behind them stay."""
    shifts = shifts % extents
    if not shifts.any():
        return clips
    place = torch.arange(clips.size, device=clips.values.device)
    extent = clips.tensor(extents)[:, None]
    source = place - clips.tensor(shifts)[:, None]
    source = torch.where(source < 0, source + extent, source)
    return replace(clips, values=clips.rearranged(torch.where(place < extent, source, place)))
