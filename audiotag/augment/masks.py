"""SpecAugment's masks in the three published forms: Zipformer, AST and BEATs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from audiotag.augment.choices import Choices
from audiotag.augment.clips import Clips, normalized


@dataclass(frozen=True)
class Spans:
    """Stretches of one axis that are masked: `starts` and `widths` (B,N), integers."""

    starts: np.ndarray
    widths: np.ndarray

    def on_axis(self, size: int, clips: Clips) -> Tensor:
        """(B,size) booleans on the device: True where any of a clip's stretches lies."""
        place = torch.arange(size, device=clips.values.device)
        starts, widths = (clips.tensor(numbers)[:, :, None] for numbers in (self.starts, self.widths))
        return ((place >= starts) & (place < starts + widths)).any(dim=1)


@dataclass(frozen=True)
class ZipformerMasks:
    """Several bands and stretches, filled with the mean of the clip's padded features.

    Args:
        probability: chance that a clip is masked.
        freq_masks: number of frequency masks.
        freq_width: widths of frequency masks are below this.
        time_share: share of the padded frames that time masks may cover together.
        time_masks: most time masks.
        time_width: widths of time masks are below this.
    """

    probability: float
    freq_masks: int
    freq_width: int
    time_share: float
    time_masks: int
    time_width: int

    def __call__(self, clips: Clips, choices: Choices) -> Clips:
        count, frames, bins = clips.values.shape
        budget = self.time_share * frames
        time_masks = min(self.time_masks, math.ceil(budget / self.time_width))
        time_width = int(min(self.time_width, budget // time_masks)) if time_masks else 0
        freq = uniform_spans(choices, (count, self.freq_masks), self.freq_width, bins)
        time = uniform_spans(choices, (count, time_masks), time_width, frames)
        spared = np.ones(count, dtype=bool)
        spared[choices.rows(self.probability, count)] = False
        freq.widths[spared] = time.widths[spared] = 0
        return masked(clips, freq, time, clips.values.mean(dim=(1, 2), keepdim=True))


@dataclass(frozen=True)
class AstMasks:
    """One band and one stretch, filled with the value that raw 0.0 has after the normalisation.

    The original masks before it normalises. What is masked depends on the place alone, so masking after it
    is the same. Stretches may fall on padding.

    Args:
        freq_width, time_width: the widths are below these.
    """

    freq_width: int
    time_width: int

    def __call__(self, clips: Clips, choices: Choices) -> Clips:
        count, frames, bins = clips.values.shape
        freq = real_spans(choices, count, self.freq_width, bins)
        time = real_spans(choices, count, self.time_width, frames)
        return masked(clips, freq, time, normalized(clips.frontend, 0.0))


@dataclass(frozen=True)
class BeatsMasks:
    """One stretch of each clip set to 0, the mean of normalised features.

    Args:
        time_share: widths are below this share of the batch's longest clip.
    """

    time_share: float

    def __call__(self, clips: Clips, choices: Choices) -> Clips:
        frames, shape = int(clips.lengths.max()), (len(clips), 1)
        widths = choices.draw.integers(0, max(1, math.floor(self.time_share * frames)), shape)
        starts = choices.draw.integers(0, max(1, frames - widths.max()), shape)
        return masked(clips, None, Spans(starts, widths), 0.0)


def uniform_spans(choices: Choices, shape: tuple[int, int], limit: int, size: int) -> Spans:
    """Widths uniform in 0..limit-1, starts anywhere that leaves the stretch inside the axis."""
    widths = choices.draw.integers(0, max(1, min(limit, size + 1)), shape)
    starts = (choices.draw.random(shape) * (size - widths)).astype(np.int64)
    return Spans(starts, widths)


def real_spans(choices: Choices, count: int, limit: int, size: int) -> Spans:
    """A width drawn from [0, limit) as a real number; it and the start are rounded down in the end."""
    widths = choices.draw.random((count, 1)) * min(limit, size)
    starts = choices.draw.random((count, 1)) * (size - widths)
    return Spans(starts.astype(np.int64), widths.astype(np.int64))


def masked(clips: Clips, freq: Spans | None, time: Spans, fill: Tensor | float) -> Clips:
    """Features with bands and stretches filled."""
    _, frames, bins = clips.values.shape
    hidden = time.on_axis(frames, clips)[:, :, None]
    if freq is not None:
        hidden = hidden | freq.on_axis(bins, clips)[:, None, :]
    return replace(clips, values=torch.where(hidden, fill, clips.values))
