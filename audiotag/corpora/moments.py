"""Mean and deviation of a split's features, in one pass over many processes.

Every clip's moments are taken around its own mean in float64 and then merged (Chan, Golub, LeVeque: "Updating
formulae and a pairwise algorithm for computing sample variances", 1979), clip by clip within a task, then
task by task, in the same order for any number of processes.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from audiotag.corpora.parallel import parallel_map
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio, load_features
from audiotag.frontend import Frontend
from audiotag.logs import progress

logger = logging.getLogger(__name__)

CLIPS_PER_TASK = 64
# The means of clips scatter by less than the deviation of all values, so that the mean of 20,000 clips has a
# standard error below 0.7 % of that deviation. All of AudioSet would take a hundred times as long.
MOST_CLIPS = 20_000
CHOICE_SEED = 0


@dataclass(frozen=True)
class Moments:
    """Number of values, their mean, and the sum of their squared distances from it."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: torch.Tensor) -> Moments:
        """The moments of all values of a tensor."""
        values = values.double()
        mean = float(values.mean())
        return cls(values.numel(), mean, float((values - mean).square().sum()))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if count == 0:
            return self
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * other.count / count,
            self.squares + other.squares + apart**2 * self.count * other.count / count,
        )

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / self.count)


def measure(
    split: str, manifest: IndexedManifest, frontend: Frontend, storage: str, num_jobs: int
) -> dict[str, float | int | None]:
    """Mean and deviation of all values of the un-normalised features as the encoder would get them.

    Clips are cut or padded to the front end's `target_frames` first, and the padding counts, as in the AST
    recipe; without a fixed length there is no padding. Of a large split some clips stand for all.
    """
    positions = spread_positions(len(manifest), MOST_CLIPS)
    tasks = [positions[start : start + CLIPS_PER_TASK] for start in range(0, len(positions), CLIPS_PER_TASK)]
    work = partial(moments_of_clips, manifest, frontend, storage)
    results = progress(parallel_map(work, tasks, num_jobs), len(tasks), f"measuring {split}", unit="tasks")
    moments = sum(results, Moments())
    shown = f"{len(positions)}" if len(positions) == len(manifest) else f"{len(positions)} of {len(manifest)}"
    logger.info("%s: mean %.7g, std %.7g over %s clips", split, moments.mean, moments.std, shown)
    return {
        "mean": moments.mean,
        "std": moments.std,
        "num_values": moments.count,
        "num_clips": len(positions),
        "of_clips": len(manifest),
        "target_frames": frontend.target_frames,
    }


def spread_positions(size: int, most: int) -> np.ndarray:
    """All positions, or one from each of `most` equal stretches of them, drawn from a fixed seed."""
    if size <= most:
        return np.arange(size)
    bounds = np.arange(most + 1) * size // most
    return np.random.default_rng(CHOICE_SEED).integers(bounds[:-1], bounds[1:])


def moments_of_clips(
    manifest: IndexedManifest, frontend: Frontend, storage: str, positions: np.ndarray
) -> Moments:
    """The moments of some clips' features."""
    moments = Moments()
    for position in positions:
        record = manifest.record(position)
        if storage == "stored":
            raw = torch.from_numpy(load_features(record))[None]
            frames = torch.tensor([raw.shape[1]])
        else:
            samples = torch.from_numpy(load_audio(record))[None]
            raw, frames = frontend.extract(samples, torch.tensor([samples.shape[1]]))
        moments += Moments.of(frontend.finish(raw, frames)[0])
    return moments
