"""Bring samples of any rate to 16 kHz through a low-pass filter."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
import torchaudio

SAMPLING_RATE = 16000
# Zero crossings of the filter on each side. With torchaudio's own 6 a tone at 11 kHz comes through at -49 dB
# and one at 7 kHz loses 1.8 dB; with 24 it is below -80 dB, and 0 dB.
FILTER_WIDTH = 24
# The filter's table grows with the product of the ratio's terms: 6 GB for 16000 : 16001. Such rates take the
# nearest ratio of smaller terms, which is off by a few millionths, or 0.013 % at worst.
MAX_TERM = 1000


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples (S,) of any rate at 16 kHz: ceil(S * 16000 / rate) of them."""
    if rate == SAMPLING_RATE:
        return samples
    resampled = resampler(rate)(torch.from_numpy(samples)).numpy()
    wanted = -(-len(samples) * SAMPLING_RATE // rate)
    return np.pad(resampled[:wanted], (0, max(0, wanted - len(resampled))))


@lru_cache(maxsize=16)
def resampler(rate: int) -> torchaudio.transforms.Resample:
    """The windowed-sinc filter of one rate; making it costs more than using it."""
    ratio = nearest_ratio(rate)
    return torchaudio.transforms.Resample(
        ratio.numerator, ratio.denominator, lowpass_filter_width=FILTER_WIDTH
    )


def nearest_ratio(rate: int) -> Fraction:
    """The rate over 16 kHz with neither term above `MAX_TERM`, exact where that is possible."""
    exact = Fraction(rate, SAMPLING_RATE)
    if not Fraction(1, MAX_TERM) <= exact <= MAX_TERM:
        raise ValueError(f"{rate} Hz is not a sampling rate of sound")
    if exact > 1:
        return 1 / (1 / exact).limit_denominator(MAX_TERM)
    return exact.limit_denominator(MAX_TERM)
