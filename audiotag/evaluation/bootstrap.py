"""Confidence intervals by resampling clips, and the test of a difference between two systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from audiotag.evaluation.ranking import d_prime
from audiotag.evaluation.resampling import Resampled
from audiotag.processors import num_processors

LEVEL = 0.95
AT_ONCE = 128  # resamplings of one block: as many as keep the weights of 20,000 clips in the cache
MOST_THREADS = 8  # a block needs up to 300 MB for 20,000 clips of 527 classes
# A rare class is in none of the clips of some resamplings, which then have no mean over classes.
LEAST_SHARE = 0.95
UNBOUNDED = frozenset({"d_prime", "loss"})


class Draws(NamedTuple):
    """The metrics of R resamplings of one system: by name (R,), and the AP of every class (C,R)."""

    metrics: dict[str, np.ndarray]
    ap: np.ndarray


def resample(
    systems: Sequence[Resampled],
    num_clips: int,
    resamplings: int,
    *,
    seed: int = 0,
    threads: int | None = None,
) -> list[Draws]:
    """The metrics of every system under the same resamplings of the clips, which derive from the seed.

    threads: how many blocks are worked on at once; None takes the processors there are, at most 8. The
    result does not depend on it.
    """
    sizes = [min(AT_ONCE, resamplings - start) for start in range(0, resamplings, AT_ONCE)]

    def work(block: int) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
        weights = draw_weights(num_clips, sizes[block], np.random.default_rng([seed, block]))
        return [system.metrics(weights) for system in systems]

    threads = threads or min(num_processors(), MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        blocks = list(pool.map(work, range(len(sizes))))
    draws = []
    for parts in zip(*blocks, strict=True):
        metrics = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
        draws.append(Draws(metrics, np.concatenate([part[1] for part in parts], axis=1)))
    return draws


def draw_weights(num_clips: int, count: int, random: np.random.Generator) -> np.ndarray:
    """How often each clip occurs in each of `count` draws of as many clips with replacement: (N,count)."""
    weights = np.empty((count, num_clips), np.float32)
    for row in weights:
        row[:] = np.bincount(random.integers(num_clips, size=num_clips), minlength=num_clips)
    return np.ascontiguousarray(weights.T)


def intervals(draws: Draws, measured: Mapping[str, float | int | None]) -> dict[str, list[float]]:
    """The 95 % interval of each metric that exists in 95 % of the resamplings or more, as [low, high].

    Percentiles of the resamplings, moved so that their mean is the measured value: a clip that is drawn
    twice ranks itself up, which makes the AP of rare classes too high in every resampling.
    """
    result = {}
    for name, values in draws.metrics.items():
        value = measured.get(name)
        there = np.isfinite(values)
        if value is None or there.mean() < LEAST_SHARE:
            continue
        values = values[there]
        low, high = percentiles(values) + (value - values.mean())
        if name not in UNBOUNDED:
            low, high = max(low, 0.0), min(high, 1.0)
        result[name] = [float(low), float(high)]
    # d' may be infinite in a resampling; it rises with mAUC, whose bounds give its own.
    bounds = [d_prime(bound) for bound in result.get("mAUC", [1.0])]
    result.pop("d_prime", None)
    return {**result, "d_prime": bounds} if np.isfinite(bounds).all() else result


class Difference(NamedTuple):
    """How much the second system's value is above the first's: [low, high] holds it with 95 %.

    p_value: two-sided, of a difference of this size or more when there is none.
    """

    value: float
    low: float
    high: float
    p_value: float


def paired_difference(measured: tuple[float, float], resampled: tuple[np.ndarray, np.ndarray]) -> Difference:
    """The difference of two systems' values of one metric under the same resamplings.

    Centred as `intervals` are.
    """
    value = measured[1] - measured[0]
    spread = resampled[1] - resampled[0]
    centred = spread + (value - spread.mean())
    below, above = np.count_nonzero(centred <= 0), np.count_nonzero(centred >= 0)
    p_value = min(1.0, 2 * (min(below, above) + 1) / (len(centred) + 1))
    return Difference(value, *(float(bound) for bound in percentiles(centred)), p_value)


def percentiles(values: np.ndarray) -> np.ndarray:
    """The bounds that hold the middle 95 % of the values, along the last axis."""
    return np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
