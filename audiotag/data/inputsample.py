"""What a few clips hold, in few numbers: by them a store of rows knows whether clips have changed since then,
behind an unchanged manifest.

Dates of files would change with a copy, and hashes with a decoder's last digit. So these are levels of bands
of frequency over a clip, natural logarithms of energy, which are compared with some tolerance. They tell
other features and another volume, not that some clip outside of the sample was exchanged.

Shapes: K clips of the sample, P bands, S samples, T frames, F bins.
"""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audiotag.arrayfiles import read_arrays
from audiotag.atomic import atomic_write
from audiotag.data.crop import load_window
from audiotag.data.dataset import ClipDataset
from audiotag.errors import DataError

logger = logging.getLogger(__name__)

# Clips spread evenly over all, and how much is read of each.
NUM_CLIPS = 16
LONGEST_S = 10.0

NUM_BANDS = 8
FRAME = 512  # samples of a spectrum

# 0.4 dB. Stage 2 rounds features by up to 0.016; a decoder that begins 36 ms later makes 0.08.
TOLERANCE = 0.1

# Energy of samples in [-1, 1] below which a band is silent, -80 dB: decoders may add some noise.
QUIET = 1e-8


def sample_inputs(dataset: ClipDataset) -> NDArray[np.float32]:
    """Levels (K,P) of a sample of a dataset's clips; NaN for one that cannot be read."""
    positions = sampled_positions(len(dataset.manifest))
    levels = np.full((len(positions), NUM_BANDS), np.nan, np.float32)
    for row, position in enumerate(positions):
        try:
            levels[row] = levels_of(dataset.read_by(load_window, position, window_s=LONGEST_S, start_s=0.0))
        except DataError as error:  # of which the user hears where the clip is needed
            logger.debug("%s", error)
    return levels


def sampled_positions(num_clips: int) -> list[int]:
    """Positions of the sample's clips."""
    return sorted(set(np.linspace(0, num_clips - 1, min(NUM_CLIPS, num_clips)).round().astype(int).tolist()))


def levels_of(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Levels (P,) of samples (S,) or log-mel (T,F)."""
    if values.ndim == 1:
        return np.log([band.sum() + QUIET for band in bands_of(spectrum_of(values))])
    return np.array([band.mean() for band in bands_of(values.T.astype(np.float64))])


def spectrum_of(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean energy by frequency of samples (S,)."""
    padded = np.pad(samples.astype(np.float64), (0, max(0, FRAME - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[:: FRAME // 2] * np.hanning(FRAME)
    return (np.abs(np.fft.rfft(frames)) ** 2).mean(axis=0) * (2 / FRAME) ** 2


def bands_of(values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Values (F,...) of as many frequencies in each band, which share some where there are few."""
    bounds = [len(values) * number // NUM_BANDS for number in range(NUM_BANDS + 1)]
    return [values[start : max(end, start + 1)] for start, end in itertools.pairwise(bounds)]


def check_sample(path: Path, levels: NDArray[np.float32]) -> None:
    """Compare levels with those that were kept; ValueError where clips hold something else than then.

    Where nothing was kept, nothing is compared.
    """
    try:
        [kept] = read_arrays(path, "levels")
    except FileNotFoundError:
        return
    if kept.shape != levels.shape or kept.dtype != np.float32:
        raise ValueError(f"{path.name} has {kept.dtype} of shape {kept.shape}, expected {levels.shape}")
    # Comparing with NaN is false: a clip that could not be read once is not told from another.
    with np.errstate(invalid="ignore"):
        changed = (np.abs(kept - levels) > TOLERANCE).any(axis=1)
    if changed.any():
        raise ValueError(f"{changed.sum()} of {len(levels)} compared clips are not as {path.name} has them")
    if lost := int((np.isnan(levels) & ~np.isnan(kept)).any(axis=1).sum()):
        logger.warning(
            "%s: %d of %d clips that are compared cannot be read now: whether they have changed is not known",
            path,
            lost,
            len(levels),
        )


def keep_sample(path: Path, levels: NDArray[np.float32]) -> None:
    """Keep the levels for later."""
    with atomic_write(path, "wb") as file:
        np.savez(file, levels=levels)
