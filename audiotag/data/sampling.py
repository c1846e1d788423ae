"""Which clips an epoch draws and in what order: shuffled passes, draws by weight, mixtures of sources.

Every draw is a function of (seed, epoch, source) alone, so an epoch can be had again at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from audiotag.data.aliastable import AliasTable
from audiotag.data.randomorder import derive_generator, first_of_order, random_orders
from audiotag.errors import ConfigError, DataError

SMALL_PASS = 4096


@dataclass(frozen=True)
class PlanSource:
    """One of several sets of clips that are mixed.

    Args:
        start, end: its clips are the positions from `start` up to, not including, `end`.
        weight: its share of an epoch's draws, over the sum of all sources' weights.
    """

    start: int
    end: int
    weight: float = 1.0


class Passes:
    """All clips in one random order after another; an epoch goes on where the last one ended.

    Args:
        size: number of clips N, which are counted from 0.
        key: (seed, source).
        shuffle: False goes through the clips as they lie.
    """

    def __init__(self, size: int, key: tuple[int, int], *, shuffle: bool) -> None:
        # The draws after which clips come again.
        self.available = size
        self.key = key
        self.shuffle = shuffle
        # A generator costs more than a pass over few clips: one makes several of those.
        self.together = max(1, SMALL_PASS // size)

    def draw(self, epoch: int, count: int) -> np.ndarray:
        """The clips (count,) of an epoch in order."""
        start, end = epoch * count, (epoch + 1) * count
        step = self.available * self.together
        numbers = range(start // step, -(-end // step))
        series = np.concatenate([self._passes(number) for number in numbers])
        first = start - numbers[0] * step
        return series[first : first + count]

    def spare(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Single draws (count,) outside of the epoch's order, with the same chances."""
        return rng.integers(self.available, size=count)

    def _passes(self, number: int) -> np.ndarray:
        if not self.shuffle:
            return np.tile(np.arange(self.available), self.together)
        rng = derive_generator("pass", *self.key, number)
        return random_orders(rng, self.together, self.available).ravel()


class WithReplacement:
    """Independent draws in proportion to the weights.

    Args:
        weights: (N,) checked weights.
        key: (seed, source).
    """

    def __init__(self, weights: np.ndarray, key: tuple[int, int]) -> None:
        self.available = len(weights)
        self.key = key
        self.table = AliasTable(weights)

    def draw(self, epoch: int, count: int) -> np.ndarray:
        return self.table.draw(derive_generator("draw", *self.key, epoch), count)

    def spare(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return self.table.draw(rng, count)


class WithoutReplacement(WithReplacement):
    """Draws in proportion to the weights of the clips that are left: no clip twice in an epoch.

    Each clip gets a key, exponentially distributed with its weight as rate; the smallest keys are drawn
    (Efraimidis and Spirakis 2006, https://doi.org/10.1016/j.ipl.2005.11.003). They come in an order of their
    own: by their keys, clips of large weight would all come early in an epoch.
    """

    def __init__(self, weights: np.ndarray, key: tuple[int, int]) -> None:
        super().__init__(weights, key)
        self.candidates = np.flatnonzero(weights)
        self.rates = weights[self.candidates]
        self.available = len(self.candidates)

    def draw(self, epoch: int, count: int) -> np.ndarray:
        rng = derive_generator("draw", *self.key, epoch)
        keys = rng.standard_exponential(self.available) / self.rates
        # Positive floats lie in the order of their bits.
        drawn = self.candidates[first_of_order(keys.view(np.uint64), count)]
        return drawn[random_orders(rng, 1, count)[0]]


class Sampler:
    """The draws of every epoch, from one source or a mixture of several.

    In a mixture each epoch has the same number of draws from every source, in proportion to the sources'
    weights, in a random sequence; among themselves the draws of a source are those that it would give alone.

    Args:
        size: number of clips N.
        seed: of all draws.
        shuffle: whether passes come in random order.
        weights: (N,) sampling weights, or None for passes.
        replacement: whether weighted draws may bring a clip twice in an epoch.
        sources: parts of the N clips that are mixed; None for all as one.
        samples_per_epoch: draws of an epoch; None for as many as there are clips to draw.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        shuffle: bool = True,
        weights: np.ndarray | None = None,
        replacement: bool = True,
        sources: Sequence[PlanSource] | None = None,
        samples_per_epoch: int | None = None,
    ) -> None:
        self.seed = seed
        self.sources = [PlanSource(0, size)] if sources is None else check_sources(sources, size)
        if weights is not None:
            weights = check_weights(weights, size)
        self._draws: list[Passes | WithReplacement] = []
        for number, source in enumerate(self.sources):
            key = (seed, number)
            if weights is None:
                draws = Passes(source.end - source.start, key, shuffle=shuffle)
            else:
                part = weights[source.start : source.end]
                if not part.any():
                    raise DataError(
                        f"no clip of source {number} (positions {source.start} to {source.end}) has a "
                        "sampling weight above 0; run stage 4 again"
                    )
                draws = WithReplacement(part, key) if replacement else WithoutReplacement(part, key)
            self._draws.append(draws)
        self.samples_per_epoch = samples_per_epoch or sum(draws.available for draws in self._draws)
        self.quotas = split_by_weight(self.samples_per_epoch, [source.weight for source in self.sources])
        if weights is not None and not replacement:
            self._check_quotas()

    def draw(self, epoch: int) -> np.ndarray:
        """Positions (samples_per_epoch,) of an epoch's clips in order, int64."""
        parts = [
            draws.draw(epoch, quota) + source.start
            for draws, source, quota in zip(self._draws, self.sources, self.quotas, strict=True)
            if quota
        ]
        if len(parts) == 1:
            return parts[0]
        labels = np.repeat(np.arange(len(parts), dtype=np.int16), [len(part) for part in parts])
        labels = derive_generator("mix", self.seed, 0, epoch).permutation(labels)
        order = np.empty(len(labels), dtype=np.int64)
        for label, part in enumerate(parts):
            order[labels == label] = part
        return order

    def spare(self, epoch: int, key: int, count: int) -> np.ndarray:
        """Positions (count,) of further draws, a function of (seed, epoch, key)."""
        rng = derive_generator("spare", self.seed, key, epoch)
        chances = np.array(self.quotas) / self.samples_per_epoch
        labels = rng.choice(len(chances), size=count, p=chances)
        positions = np.empty(count, dtype=np.int64)
        for label in np.unique(labels):
            chosen = labels == label
            positions[chosen] = self._draws[label].spare(rng, chosen.sum()) + self.sources[label].start
        return positions

    def _check_quotas(self) -> None:
        for number, (draws, quota) in enumerate(zip(self._draws, self.quotas, strict=True)):
            if quota > draws.available:
                where = f" of source {number}" if len(self.sources) > 1 else ""
                raise ConfigError(
                    f"data.replacement is false and an epoch draws {quota} clips{where}, but only "
                    f"{draws.available} have a sampling weight above 0: lower data.samples_per_epoch "
                    f"({self.samples_per_epoch}), or set data.replacement to true"
                )


def check_weights(weights: np.ndarray, size: int) -> np.ndarray:
    """Sampling weights (N,) as float64, or an error when nothing can be drawn by them."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (size,):
        raise DataError(f"sampling weights have shape {weights.shape} for {size} clips; run stage 4 again")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise DataError("sampling weights must be finite, none negative, not all zero; run stage 4 again")
    return weights


def check_sources(sources: Sequence[PlanSource], size: int) -> list[PlanSource]:
    """The sources, or an error when one has no clips or no weight."""
    if not sources:
        raise ConfigError("data.sources is empty: name at least one source, or set it to null")
    for number, source in enumerate(sources):
        if not 0 <= source.start < source.end <= size:
            raise DataError(
                f"source {number} of data.sources has the clips from {source.start} to {source.end} of "
                f"{size}: it is empty or not there"
            )
        if not 0 < source.weight < np.inf:
            raise ConfigError(f"data.sources[{number}].weight is {source.weight}: expected a number above 0")
    return list(sources)


def split_by_weight(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers that add up to the total and are nearest to the weights' shares (largest remainders)."""
    exact = np.array(weights, dtype=np.float64) / np.sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    rest = np.argsort(counts - exact, kind="stable")[: total - counts.sum()]
    counts[rest] += 1
    return counts.tolist()
