"""Augmentations of a clip's length: whole batches cut to a random one, short clips repeated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from audiotag.augment.choices import Choices
from audiotag.augment.clips import Clips


@dataclass(frozen=True)
class RandomLength:
    """Cuts all clips of a batch to one random length, each at a random place; shorter clips stay.

    Args:
        probability: chance that a batch is cut.
        duration_s: range of the length.
    """

    probability: float
    duration_s: tuple[float, float]

    def __call__(self, clips: Clips, choices: Choices) -> Clips:
        longest = max(clips.positions(choices.draw.uniform(*self.duration_s)), clips.shortest_allowed)
        starts = choices.draw.integers(0, np.maximum(clips.lengths - longest, 0), endpoint=True)
        if choices.draw.random() >= self.probability or clips.size <= longest:
            return clips
        index = clips.tensor(starts)[:, None] + torch.arange(longest, device=clips.values.device)
        # Past the end of a clip that is shorter than the stretch anything may be read: it is padded there.
        cut = replace(clips, values=clips.rearranged(index.clamp(max=clips.size - 1)))
        return cut.ended(np.minimum(clips.lengths, longest)).trimmed()


@dataclass(frozen=True)
class Repeat:
    """Repeats short clips, the last time in part.

    Args:
        duration_s: what shorter clips are filled up to.
    """

    duration_s: float

    def __call__(self, clips: Clips, choices: Choices) -> Clips:
        lengths = np.maximum(clips.lengths, clips.positions(self.duration_s))
        if np.array_equal(lengths, clips.lengths):
            return clips
        place = torch.arange(int(lengths.max()), device=clips.values.device)
        index = place % clips.tensor(clips.lengths)[:, None]
        return replace(clips, values=clips.rearranged(index)).ended(lengths)
