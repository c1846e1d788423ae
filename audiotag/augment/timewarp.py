"""Time warp: a point of a clip moves, what lies before and behind it is stretched or squeezed to fit.

Frames are resampled as `torch.nn.functional.interpolate` does with `mode="bicubic"`. Along frequency nothing
changes, so every new frame is a weighted sum of four old ones, for all clips at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from audiotag.augment.choices import Choices
from audiotag.augment.clips import Clips

SHARPNESS = -0.75  # the parameter of PyTorch's cubic convolution


@dataclass(frozen=True)
class TimeWarp:
    """Warps the frames of each clip up to its own end.

    Args:
        per: a warp of its own for each `clip` (Zipformer), or one for the whole `batch` (BEATs), in which
            clips that end before the point stay as they are.
        probability: chance of a warp.
        window: farthest move, in frames.
    """

    per: str
    probability: float
    window: int

    def __call__(self, clips: Clips, choices: Choices) -> Clips:
        draw = self.draw_batch if self.per == "batch" else self.draw_clips
        points, targets = draw(clips.lengths, choices)
        rows = np.flatnonzero(points != targets)
        if len(rows) == 0:
            return clips
        chosen = clips.select(rows)
        moves = (chosen.tensor(numbers) for numbers in (points[rows], targets[rows], chosen.lengths))
        values = warp(chosen.values, *moves)
        return clips.with_rows(rows, chosen.with_inside(values))

    def draw_clips(self, lengths: np.ndarray, choices: Choices) -> tuple[np.ndarray, np.ndarray]:
        """A point (B,) of each clip and where it goes; clips that are too short or spared stay."""
        lowest, highest = self.window + 1, lengths - self.window
        points = choices.draw.integers(lowest, np.maximum(highest, lowest + 1))
        targets = choices.draw.integers(points - self.window, points + self.window, endpoint=True)
        warped = np.zeros(len(lengths), dtype=bool)
        warped[choices.rows(self.probability, len(lengths))] = True
        return points, np.where(warped & (highest > lowest), targets, points)

    def draw_batch(self, lengths: np.ndarray, choices: Choices) -> tuple[np.ndarray, np.ndarray]:
        """The same point and target for all clips of the batch that reach beyond both."""
        frames = int(lengths.max())
        if frames - self.window <= self.window or choices.draw.random() >= self.probability:
            return np.zeros_like(lengths), np.zeros_like(lengths)
        point = choices.draw.integers(self.window, frames - self.window)
        target = choices.draw.integers(point - self.window, point + self.window) + 1
        return np.full_like(lengths, point), np.where(lengths > max(point, target), target, point)


def warp(features: Tensor, points: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """Features (B,T,F) whose first `points` (B,) frames now fill `targets` (B,) frames, and the rest of
    `lengths` (B,) the rest. Points and targets lie inside the lengths; frames past them are unspecified."""
    size = features.shape[1]
    points, targets, lengths = points[:, None], targets[:, None], lengths[:, None]
    place = torch.arange(size, device=features.device)
    before = place < targets
    # Each frame belongs to one of two stretches that begin at `start` and have `span` frames, old and new.
    old_start = torch.where(before, 0, points)
    old_span = torch.where(before, points, lengths - points)
    new_start = torch.where(before, 0, targets)
    new_span = torch.where(before, targets, lengths - targets)
    # float64, since a thousand frames leave float32 only four digits behind the point.
    position = (old_span / new_span.double()) * (place - new_start + 0.5) - 0.5
    nearest = position.floor()
    taps = nearest.long()[:, :, None] + torch.arange(-1, 3, device=features.device)
    taps = torch.minimum(taps.clamp(min=0), old_span[:, :, None] - 1) + old_start[:, :, None]
    first_rows = size * torch.arange(len(features), device=features.device)
    summed = functional.embedding_bag(
        (first_rows[:, None, None] + taps).view(-1, 4),
        features.reshape(-1, features.shape[2]),
        mode="sum",
        per_sample_weights=cubic_weights(position - nearest).float().view(-1, 4),
    )
    return summed.view_as(features)


def cubic_weights(fraction: Tensor) -> Tensor:
    """Weights (...,4) of four frames around a position `fraction` (...) behind the second of them."""

    def near(x: Tensor) -> Tensor:
        return ((SHARPNESS + 2) * x - (SHARPNESS + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((SHARPNESS * x - 5 * SHARPNESS) * x + 8 * SHARPNESS) * x - 4 * SHARPNESS

    return torch.stack([far(fraction + 1), near(fraction), near(1 - fraction), far(2 - fraction)], dim=-1)
