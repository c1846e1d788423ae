"""What hypothesis plans: clips of any lengths and every way to sample and batch them."""

from __future__ import annotations

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from audiotag.data.batching import BatchPlan
from audiotag.data.sampling import PlanSource
from audiotag.errors import ConfigError

# Many clips of one length among others, as corpora have them.
length = st.one_of(st.just(10.0), st.floats(0.5, 30.0, width=32))
durations = st.lists(length, min_size=1, max_size=80).map(lambda values: np.array(values, dtype=np.float32))
limits = st.sampled_from(
    [
        {"batch_size": 1},
        {"batch_size": 4},
        {"batch_size": 7, "max_duration_s": 40.0},
        {"max_duration_s": 30.0},
        {"max_duration_s": 90.0},
        {"batch_size": 1000},
    ]
)
worlds = st.integers(1, 9)
seeds = st.integers(0, 2**40)
epochs = st.integers(0, 5)


@st.composite
def sources_of(draw: st.DrawFn, size: int) -> list[PlanSource]:
    """Neighbouring parts of the clips, each with a weight."""
    borders = draw(st.sets(st.integers(1, size), max_size=3).map(lambda inner: sorted({0, size, *inner})))
    weights = draw(st.lists(st.floats(0.1, 10.0), min_size=len(borders), max_size=len(borders)))
    return [PlanSource(*part) for part in zip(borders[:-1], borders[1:], weights[1:], strict=True)]


@st.composite
def training_plans(draw: st.DrawFn, *, passes_only: bool = False) -> tuple[np.ndarray, dict]:
    """Durations and the other options of a plan for training, world size and rank excepted."""
    lengths = draw(durations)
    options = {"seed": draw(seeds), "num_buckets": draw(st.sampled_from([1, 2, 5])), **draw(limits)}
    if passes_only:
        return lengths, options
    options["sources"] = draw(st.none() | sources_of(len(lengths)))
    options["samples_per_epoch"] = draw(st.none() | st.integers(1, 2 * len(lengths)))
    if draw(st.booleans()):
        rng = np.random.default_rng(options["seed"])
        options["weights"] = rng.pareto(1.0, len(lengths)) * (rng.random(len(lengths)) < 0.9) + 1e-9
        options["replacement"] = draw(st.booleans())
    try:
        BatchPlan(lengths, **options)
    except ConfigError:  # without replacement there can be too few clips
        assume(False)
    return lengths, options


def all_ranks(lengths: np.ndarray, epoch: int, world_size: int, first: int = 0, **options) -> list:
    """The batches of every rank, each from a plan of its own."""
    return [
        BatchPlan(lengths, world_size=world_size, rank=rank, **options).batches(epoch, first)
        for rank in range(world_size)
    ]


def base_batches(lengths: np.ndarray, epoch: int, **options) -> list:
    """The batches that ranks are dealt: those of one rank alone."""
    return BatchPlan(lengths, **options).batches(epoch)


def clips(batches: list) -> list[int]:
    """All clips of some batches in order."""
    return [clip for batch in batches for clip in batch.tolist()]


def same(batches: list, others: list) -> bool:
    """Whether batches have the same clips in the same order."""
    return [batch.tolist() for batch in batches] == [batch.tolist() for batch in others]


def keeps_limits(batches: list, lengths: np.ndarray, batch_size=None, max_duration_s=None, **_) -> bool:
    """Whether no batch is empty or over a limit."""
    return all(
        0 < len(batch) <= (batch_size or len(batch))
        and (max_duration_s is None or len(batch) * float(lengths[batch].max()) <= max_duration_s)
        for batch in batches
    )
