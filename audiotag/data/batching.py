"""Who gets which clips when: the batches of every epoch and rank, computed from a seed.

Every rank computes the same plan of an epoch and takes its own part, so nothing is exchanged. A plan
depends on (durations, weights, limits, seed, epoch, world size) and on nothing else: batch k of an epoch can
be had again at any time, which is how a run resumes.
"""

from __future__ import annotations

import numpy as np

from audiotag.errors import ConfigError, DataError


class BatchPlan:
    """Batches of clip positions for one rank.

    Training: every rank gets the same number of batches. To that end the largest batches are halved; only
    where all are of one clip do the first ones come a second time. With `shuffle` the clips are gone
    through in one random order after another: an epoch of N clips has each clip once, and with
    `samples_per_epoch` an epoch goes on where the last one ended. With `weights` clips are drawn with
    replacement in proportion to their weight.

    Evaluation (`training=False`): the clips in their order, each exactly once over all ranks, batch k on rank
    k modulo world size. Ranks can differ by one batch, or have none at all; nothing is repeated to even
    them out, since that would change the scores.

    Args:
        durations: (N,) seconds.
        seed: of all random choices.
        world_size, rank: number of processes and which of them this is.
        batch_size: most clips of a batch, on one rank; None for no limit.
        max_duration_s: most seconds of a batch on one rank: clips times the longest of them, since shorter
            ones are padded; None for no limit.
        shuffle: random order; False keeps the order of the manifest.
        weights: (N,) sampling weights, or None.
        samples_per_epoch: clips of an epoch over all ranks; None for N.
        training: see above.
    """

    def __init__(
        self,
        durations: np.ndarray,
        *,
        seed: int,
        world_size: int = 1,
        rank: int = 0,
        batch_size: int | None = None,
        max_duration_s: float | None = None,
        shuffle: bool = True,
        weights: np.ndarray | None = None,
        samples_per_epoch: int | None = None,
        training: bool = True,
    ) -> None:
        if batch_size is None and max_duration_s is None:
            raise ConfigError("one of data.batch_size and data.max_duration_s is needed")
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} of {world_size} processes does not exist")
        if len(durations) == 0:
            raise DataError("the manifest has no clips to make batches of")
        self.durations = np.asarray(durations)
        self.seed = seed
        self.world_size = world_size
        self.rank = rank
        self.batch_size = batch_size or len(durations)
        self.max_duration_s = max_duration_s
        self.shuffle = shuffle and training
        self.training = training
        self.samples_per_epoch = (samples_per_epoch or len(durations)) if training else len(durations)
        self._cumulative = cumulative_weights(weights, len(durations)) if weights is not None else None
        self._last: tuple[int, np.ndarray, np.ndarray] | None = None
        self._check_limits()

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of this rank in an epoch: arrays of clip positions, int64."""
        order, bounds = self._plan(epoch)
        mine = range(self.rank, len(bounds) - 1, self.world_size)
        return [order[bounds[k] : bounds[k + 1]] for k in mine]

    def num_batches(self, epoch: int) -> int:
        """How many batches this rank has in an epoch."""
        _, bounds = self._plan(epoch)
        return len(range(self.rank, len(bounds) - 1, self.world_size))

    def _check_limits(self) -> None:
        longest = float(self.durations.max())
        if self.max_duration_s is not None and longest > self.max_duration_s:
            raise ConfigError(
                f"data.max_duration_s is {self.max_duration_s:g} s, but the longest clip has {longest:g} s: "
                "raise it, or split long clips"
            )

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """All clips of an epoch in order, and the bounds of its batches; the last answer is kept."""
        if self._last is None or self._last[0] != epoch:
            self._last = (epoch, *self._with_bounds(self._order(epoch)))
        return self._last[1:]

    def _order(self, epoch: int) -> np.ndarray:
        """Positions of the clips of an epoch over all ranks."""
        size, wanted = len(self.durations), self.samples_per_epoch
        if self._cumulative is not None and self.training:
            total = self._cumulative[-1]
            drawn = np.searchsorted(self._cumulative, total * self._rng(epoch).random(wanted), side="right")
            # A draw that is rounded up to the total belongs to the last clip with a weight.
            return np.minimum(drawn, np.searchsorted(self._cumulative, total))
        if not self.training:
            return np.arange(size)
        # Epoch e is the part [e * wanted, (e + 1) * wanted) of an endless series of passes over all clips.
        start, end = epoch * wanted, (epoch + 1) * wanted
        passes = range(start // size, (end - 1) // size + 1)
        series = np.concatenate([self._pass(number) for number in passes])
        first = start - passes[0] * size
        return series[first : first + wanted]

    def _pass(self, number: int) -> np.ndarray:
        size = len(self.durations)
        return self._rng(number).permutation(size) if self.shuffle else np.arange(size)

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence((self.seed, number)))

    def _with_bounds(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The clips of an epoch and the bounds of its batches in them."""
        if self.max_duration_s is not None:
            bounds = self._pack(order)
        else:
            count = -(-len(order) // self.batch_size)
            if self.training:
                # Even sizes rather than a small last batch, whose clips would weigh more than others.
                count = min(round_up(count, self.world_size), len(order))
                bounds = np.arange(count + 1) * len(order) // count
            else:
                bounds = np.minimum(np.arange(count + 1) * self.batch_size, len(order))
        if not self.training:
            return order, bounds
        bounds = split_to_multiple(bounds, self.world_size)
        missing = -(len(bounds) - 1) % self.world_size
        repeated = np.resize(order, missing)
        return np.concatenate([order, repeated]), np.append(bounds, bounds[-1] + np.arange(1, missing + 1))

    def _pack(self, order: np.ndarray) -> np.ndarray:
        """Fill batches one after the other up to the limits."""
        bounds, count, longest = [0], 0, 0.0
        for position, duration in enumerate(self.durations[order].tolist()):
            longest = max(longest, duration)
            if count == self.batch_size or (count + 1) * longest > self.max_duration_s:
                bounds.append(position)
                count, longest = 0, duration
            count += 1
        return np.array([*bounds, len(order)])


def round_up(count: int, multiple: int) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple


def split_to_multiple(bounds: np.ndarray, multiple: int) -> np.ndarray:
    """Halve the largest batches until their number is a multiple, or all are of one clip."""
    wanted = round_up(len(bounds) - 1, multiple)
    while len(bounds) - 1 < wanted:
        sizes = np.diff(bounds)
        largest = int(sizes.argmax())
        if sizes[largest] < 2:
            break
        bounds = np.insert(bounds, largest + 1, bounds[largest] + sizes[largest] // 2)
    return bounds


def cumulative_weights(weights: np.ndarray, size: int) -> np.ndarray:
    """Running sum (N,) of sampling weights."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (size,):
        raise DataError(f"sampling weights have shape {weights.shape} for {size} clips; run stage 4 again")
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise DataError("sampling weights must be finite, none negative, not all zero; run stage 4 again")
    return np.cumsum(weights)
