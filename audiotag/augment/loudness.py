"""Waveforms made louder or softer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from audiotag.augment.choices import Choices
from audiotag.augment.clips import Clips


@dataclass(frozen=True)
class Gain:
    """Multiplies each chosen waveform by a factor.

    Args:
        probability: chance that a clip is changed.
        gain_db: range of the gain, drawn uniformly.
    """

    probability: float
    gain_db: tuple[float, float]

    def __call__(self, clips: Clips, choices: Choices) -> Clips:
        gains = choices.draw.uniform(*self.gain_db, len(clips))
        factors = np.ones(len(clips))
        rows = choices.rows(self.probability, len(clips))
        factors[rows] = 10 ** (gains[rows] / 20)
        return replace(clips, values=clips.values * clips.column(factors))
