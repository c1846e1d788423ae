"""Noise that is drawn by the sample: white noise on waveforms, and AST's noise on features."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from audiotag.augment.choices import Choices
from audiotag.augment.clips import Clips


@dataclass(frozen=True)
class WhiteNoise:
    """Adds Gaussian noise to waveforms; silent clips stay silent.

    Args:
        probability: chance that a clip gets noise.
        snr_db: range of the ratio of the clip's energy to that of the noise, drawn uniformly.
    """

    probability: float
    snr_db: tuple[float, float]

    def __call__(self, clips: Clips, choices: Choices) -> Clips:
        rows = choices.rows(self.probability, len(clips))
        if len(rows) == 0:
            return clips
        ratios = 10 ** (choices.draw.uniform(*self.snr_db, len(rows)) / 10)
        chosen = clips.select(rows)
        device = clips.values.device
        noise = torch.randn(
            chosen.values.shape, generator=choices.noise_generator(device), device=device
        ).where(chosen.inside(chosen.lengths), 0.0)
        factor = (energy(chosen.values) / (energy(noise) * chosen.column(ratios))).sqrt()
        return clips.with_rows(rows, replace(chosen, values=chosen.values + factor * noise))


def energy(waveforms: torch.Tensor) -> torch.Tensor:
    """(B,1) sum of squares of waveforms (B,S)."""
    return waveforms.square().sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class FeatureNoise:
    """Adds U(0,1) to each value of the features, times a factor of the clip drawn from U(0,1), times `scale`.

    A fixed size gets it on padding too (AST), as everything that the model takes for the clip does.
    """

    scale: float

    def __call__(self, clips: Clips, choices: Choices) -> Clips:
        factors = clips.column(self.scale * choices.draw.random(len(clips)))
        device = clips.values.device
        noise = torch.rand(clips.values.shape, generator=choices.noise_generator(device), device=device)
        noise = noise.where(clips.inside(clips.extents), 0.0)
        return replace(clips, values=clips.values + factors * noise)
