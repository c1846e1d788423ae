"""Who gets which clips when: the batches of every epoch and rank, computed from a seed.

Every rank computes the same batches of an epoch (`sampling.py` draws the clips, `packing.py` cuts them into
batches) and takes its own part, so nothing is exchanged. These *base batches* do not depend on the number of
ranks, and can be had again at any time: a run that stopped goes on behind the last batch that was taken,
on as many ranks as there are then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from audiotag.data.packing import even_bounds, even_out_ends, filled_bounds, length_buckets
from audiotag.data.randomorder import derive_generator, random_orders
from audiotag.data.sampling import PlanSource, Sampler
from audiotag.errors import ConfigError, DataError


@dataclass(frozen=True)
class BaseBatches:
    """The batches of an epoch over all ranks: number k is `order[starts[k]:ends[k]]`."""

    order: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, numbers: range) -> list[np.ndarray]:
        """Some of the batches."""
        chosen = slice(numbers.start, numbers.stop, numbers.step)
        bounds = zip(self.starts[chosen].tolist(), self.ends[chosen].tolist(), strict=True)
        return [self.order[start:end] for start, end in bounds]


class BatchPlan:
    """Batches of clip positions for one rank.

    Training: the base batches are dealt in rounds, number k * world_size + r to rank r. The batches of a last
    round that does not go round are split until it does; only where it has fewer clips than ranks do the
    others get one of the epoch's clips a second time. So all ranks have the same number of batches.

    Evaluation (`training=False`): the clips in their order, each exactly once over all ranks, batch k on rank
    k modulo world size. Ranks can differ by one batch, or have none at all; nothing is repeated to even
    them out, since that would change the scores. Sampling, buckets and `samples_per_epoch` have no effect.

    Args:
        durations: (N,) seconds.
        seed: of all random choices.
        world_size, rank: number of processes and which of them this is.
        batch_size: most clips of a batch, on one rank; None for no limit.
        max_duration_s: most seconds of a batch on one rank: clips times the longest of them, since shorter
            ones are padded; None for no limit.
        shuffle: the clips are gone through in one random order after another: an epoch of N clips has each
            once, and with `samples_per_epoch` an epoch goes on where the last one ended. False keeps the
            order of the manifest.
        weights: (N,) sampling weights: clips are drawn in proportion to them; None shuffles.
        replacement: whether weighted draws may bring a clip twice in an epoch.
        num_buckets: clips of similar length share batches; the batches come in random order.
        samples_per_epoch: clips of an epoch over all ranks; None for N, or, without replacement, for as
            many as have a weight above 0.
        sources: parts of the clips that are mixed, each epoch by the sources' weights; None for all as one.
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
        replacement: bool = True,
        num_buckets: int = 1,
        samples_per_epoch: int | None = None,
        sources: Sequence[PlanSource] | None = None,
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
        # Durations have 32 bits: one that equals the limit may lie above it by a rounding.
        self.max_duration_s = max_duration_s and max_duration_s * (1 + 1e-6)
        self.training = training
        self._check_limits()
        self._sampler = Sampler(
            len(durations),
            seed=seed,
            shuffle=shuffle and training,
            weights=weights if training else None,
            replacement=replacement,
            sources=sources if training else None,
            samples_per_epoch=samples_per_epoch if training else None,
        )
        self.samples_per_epoch = self._sampler.samples_per_epoch
        self.batch_size = batch_size or self.samples_per_epoch
        bucketed = training and num_buckets > 1
        self._bucket_of = length_buckets(self.durations, num_buckets) if bucketed else None
        self._last: tuple[int, BaseBatches] | None = None

    def batches(self, epoch: int, first: int = 0) -> list[np.ndarray]:
        """The batches of this rank in an epoch: arrays of clip positions, int64.

        Args:
            epoch: its number, from 0.
            first: base batches of the epoch that are done; a run of W ranks that stopped after k batches on
                each has done k * W. What is left is dealt to the ranks that there are now.
        """
        base = self._base(epoch)
        rounds_end = first + self._num_left(base, first) // self.world_size * self.world_size
        mine = base.take(range(first + self.rank, rounds_end, self.world_size))
        last_round = base.take(range(rounds_end, len(base)))
        if last_round and self.training:
            last_round = split_among(last_round, self.world_size)
            missing = self.world_size - len(last_round)
            last_round += [base.order[[base.starts[k % len(base)]]] for k in range(missing)]
        return mine + last_round[self.rank : self.rank + 1]

    def num_batches(self, epoch: int, first: int = 0) -> int:
        """How many batches this rank has in an epoch, or in what is left of it; see `batches`."""
        left = self._num_left(self._base(epoch), first)
        before = 0 if self.training else self.rank
        return max(0, -(-(left - before) // self.world_size))

    def num_base_batches(self, epoch: int) -> int:
        """How many batches an epoch has over all ranks, before those of a last round are split."""
        return len(self._base(epoch))

    def padded_durations(self, epoch: int) -> np.ndarray:
        """Seconds (M,) that each of an epoch's base batches fills: its clips times the longest of them."""
        base = self._base(epoch)
        ordered = np.argsort(base.starts, kind="stable")
        longest = np.empty(len(base))
        longest[ordered] = np.maximum.reduceat(self.durations.take(base.order), base.starts[ordered])
        return longest * (base.ends - base.starts)

    def substitutes(self, epoch: int, clip_key: int, count: int) -> np.ndarray:
        """Positions (count,) to take, one after the other, for a clip of an epoch that cannot be read.

        They are drawn with the same chances as the epoch's clips, as a function of (seed, epoch, clip_key).

        Args:
            epoch: number of the epoch.
            clip_key: whole number from 0 on that names the clip's place in the epoch.
            count: how many.
        """
        if not self.training:
            raise ValueError("no clip is replaced in evaluation")
        return self._sampler.spare(epoch, clip_key, count)

    def _num_left(self, base: BaseBatches, first: int) -> int:
        if first < 0:
            raise ValueError(f"first is {first}, expected a number of batches")
        return max(0, len(base) - first)

    def _check_limits(self) -> None:
        longest = float(self.durations.max())
        if self.max_duration_s is not None and longest > self.max_duration_s:
            raise ConfigError(
                f"data.max_duration_s is {self.max_duration_s:g} s, but the longest clip has {longest:g} s: "
                "raise it, or train on stretches of long clips with augment.crop"
            )

    def _base(self, epoch: int) -> BaseBatches:
        """The base batches of an epoch; the last answer is kept."""
        if self._last is None or self._last[0] != epoch:
            self._last = (epoch, self._make_base(epoch))
        return self._last[1]

    def _make_base(self, epoch: int) -> BaseBatches:
        order = self._sampler.draw(epoch)
        groups = np.array([0, len(order)])
        if self._bucket_of is not None:
            buckets = self._bucket_of[order]
            order = order[np.argsort(buckets, kind="stable")]
            groups = np.unique(np.cumsum([0, *np.bincount(buckets)]))
        bounds = self._bounds(order, groups)
        if self._bucket_of is None:
            return BaseBatches(order, bounds[:-1], bounds[1:])
        rng = derive_generator("batches", self.seed, 0, epoch)
        shuffled = random_orders(rng, 1, len(bounds) - 1)[0]
        return BaseBatches(order, bounds[:-1][shuffled], bounds[1:][shuffled])

    def _bounds(self, order: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Bounds (M+1,) of the batches in the order, none across two groups."""
        if self.max_duration_s is not None:
            durations = self.durations.take(order)
            bounds = filled_bounds(durations, groups, self.batch_size, self.max_duration_s)
            return even_out_ends(bounds, groups, durations, self.max_duration_s) if self.training else bounds
        if self.training:
            return even_bounds(groups, self.batch_size)
        return np.append(np.arange(0, len(order), self.batch_size), len(order))


def split_among(batches: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Split batches into `count` of even sizes, or as many as they have clips; none has clips of two."""
    parts = [1] * len(batches)
    for _ in range(count - len(batches)):
        largest = max(range(len(batches)), key=lambda k: len(batches[k]) / parts[k])
        if parts[largest] == len(batches[largest]):
            break
        parts[largest] += 1
    return [part for batch, n in zip(batches, parts, strict=True) for part in np.array_split(batch, n)]
