"""What a few clips hold, in few numbers: by them a store of rows knows whether clips have changed since then,
behind an unchanged manifest.

Dates and sizes of files would change with a copy, and hashes with a decoder's last digit. So these are levels
of parts of a clip, the natural logarithm of energy, which are compared with some tolerance: they tell other
features and another volume, not whether a single clip was exchanged.

Shapes: K clips of the sample, P parts of a clip, S samples, T frames, F bins.
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

# Parts of a clip: stretches of audio, or stretches times bands of features.
NUM_PARTS = 16
NUM_BANDS = 4

# Stage 2 rounds features by up to 0.016. This is 0.2 dB.
TOLERANCE = 0.05

# Energy of samples in [-1, 1] below what decoders add to silence, -80 dB.
QUIET = 1e-8


def sample_inputs(dataset: ClipDataset) -> NDArray[np.float32]:
    """Levels (K,P) of a sample of a dataset's clips; NaN for one that cannot be read."""
    positions = sampled_positions(len(dataset.manifest))
    levels = np.full((len(positions), NUM_PARTS), np.nan, np.float32)
    for row, position in enumerate(positions):
        try:
            levels[row] = levels_of(dataset.read_by(load_window, position, window_s=LONGEST_S, start_s=0.0))
        except DataError as error:  # of which the user hears where the clip is needed
            logger.debug("%s", error)
    return levels


def sampled_positions(num_clips: int) -> list[int]:
    """Positions of the sample's clips."""
    return sorted(set(np.linspace(0, num_clips - 1, min(NUM_CLIPS, num_clips)).round().astype(int).tolist()))


def levels_of(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Levels (P,) of samples (S,) or log-mel (T,F)."""
    values = values.astype(np.float64)
    if values.ndim == 1:
        return np.log([np.mean(part**2) + QUIET for part in parts_of(values, NUM_PARTS)])
    stretches = parts_of(values, NUM_PARTS // NUM_BANDS)
    return np.array([part.mean() for stretch in stretches for part in parts_of(stretch.T, NUM_BANDS)])


def parts_of(values: NDArray, count: int) -> list[NDArray]:
    """So many parts of equal length, which share rows where there are fewer of them."""
    bounds = [len(values) * number // count for number in range(count + 1)]
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
