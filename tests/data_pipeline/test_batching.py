"""Who gets which batches: base batches, their dealing to ranks, resuming, evaluation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from plan_strategies import (
    all_ranks,
    base_batches,
    clips,
    durations,
    epochs,
    keeps_limits,
    limits,
    same,
    seeds,
    training_plans,
    worlds,
)

from audiotag.data.batching import BatchPlan, split_among
from audiotag.data.sampling import PlanSource
from audiotag.errors import ConfigError, DataError

common = settings(deadline=None, derandomize=True)


def check_dealt(ranks, base, lengths, options, first=0):
    """Ranks have the base batches from `first` on in rounds, then the rest in equal numbers of parts."""
    epoch, base, world_size = set(clips(base)), base[first:], len(ranks)
    rounds = len(base) // world_size
    assert {len(batches) for batches in ranks} == {-(-len(base) // world_size)}
    dealt = [ranks[k % world_size][k // world_size] for k in range(rounds * world_size)]
    assert same(dealt, base[: rounds * world_size])
    last_round = [batch for batches in ranks for batch in batches[rounds:]]
    rest = clips(base[rounds * world_size :])
    assert keeps_limits(last_round, lengths, **options)
    # Only where there are fewer clips than ranks do clips come a second time, each in a batch of its own.
    parts = last_round[: len(rest)]
    assert Counter(clips(parts)) == Counter(rest)
    assert all(len(batch) == 1 and batch[0] in epoch for batch in last_round[len(parts) :])


@settings(common, max_examples=100)
@given(training_plans(), worlds, epochs)
def test_ranks_are_dealt_the_same_base_batches_whatever_their_number(plan, world_size, epoch):
    lengths, options = plan
    base = base_batches(lengths, epoch, **options)
    assert keeps_limits(base, lengths, **options)
    assert all(batch.dtype == np.int64 for batch in base)
    ranks = all_ranks(lengths, epoch, world_size, **options)
    check_dealt(ranks, base, lengths, options)
    for rank, batches in enumerate(ranks):
        again = BatchPlan(lengths, world_size=world_size, rank=rank, **options)
        assert again.num_batches(epoch) == len(batches)


@settings(common, max_examples=60)
@given(training_plans(passes_only=True), worlds, epochs)
def test_shuffling_takes_every_clip_once(plan, world_size, epoch):
    lengths, options = plan
    everything = list(range(len(lengths)))
    assert sorted(clips(base_batches(lengths, epoch, **options))) == everything
    ranks = all_ranks(lengths, epoch, world_size, **options)
    counts = Counter(clip for batches in ranks for clip in clips(batches))
    assert sorted(counts) == everything
    assert counts.total() - len(lengths) < world_size


@settings(common, max_examples=80)
@given(training_plans(), worlds, worlds, epochs, st.data())
def test_a_run_goes_on_where_it_stopped_on_any_number_of_ranks(plan, before, after, epoch, data):
    lengths, options = plan
    base = base_batches(lengths, epoch, **options)
    rounds = data.draw(st.integers(0, -(-len(base) // before)))
    first = rounds * before
    uninterrupted = all_ranks(lengths, epoch, before, **options)
    for batches, resumed in zip(
        uninterrupted, all_ranks(lengths, epoch, before, first, **options), strict=True
    ):
        assert same(resumed, batches[rounds:])
    ranks = all_ranks(lengths, epoch, after, first, **options)
    check_dealt(ranks, base, lengths, options, first)
    for rank, batches in enumerate(ranks):
        plan = BatchPlan(lengths, world_size=after, rank=rank, **options)
        assert plan.num_batches(epoch, first) == len(batches)
        assert (len(batches) > 0) == (first < len(base))


@settings(common, max_examples=60)
@given(training_plans(), worlds, epochs)
def test_the_plan_is_the_same_whenever_it_is_made(plan, world_size, epoch):
    lengths, options = plan
    options = {"world_size": world_size, "rank": world_size - 1, **options}
    used = BatchPlan(lengths, **options)
    first = used.batches(epoch)
    used.batches(epoch + 1)
    assert same(first, used.batches(epoch))
    assert same(first, BatchPlan(lengths.copy(), **options).batches(epoch))


@settings(common, max_examples=80)
@given(training_plans(), limits, worlds, seeds)
def test_evaluation_takes_every_clip_exactly_once_in_order(plan, limit, world_size, seed):
    """Whatever else is asked for: sampling, buckets and sources are of training."""
    lengths, options = plan
    options = {**options, "batch_size": None, "max_duration_s": None, **limit}
    ranks = all_ranks(lengths, 0, world_size, training=False, **options)
    everything = [batch for batches in ranks for batch in batches]
    assert keeps_limits(everything, lengths, **limit)
    counts = [len(batches) for batches in ranks]
    assert max(counts) - min(counts) <= 1 and counts == sorted(counts, reverse=True)
    dealt = [ranks[k % world_size][k // world_size] for k in range(sum(counts))]
    assert clips(dealt) == list(range(len(lengths)))
    for rank, batches in enumerate(ranks):
        plan = BatchPlan(lengths, training=False, world_size=world_size, rank=rank, **options)
        assert plan.num_batches(0) == len(batches)
        for rounds in range(len(batches) + 1):
            assert same(plan.batches(0, rounds * world_size), batches[rounds:])
            assert plan.num_batches(0, rounds * world_size) == len(batches) - rounds


@settings(common, max_examples=60)
@given(worlds, seeds, st.integers(1, 8))
def test_ranks_take_together_what_one_takes_with_larger_batches(world_size, seed, batch_size):
    """Where the sizes divide, two ranks with batches of b see in each round what one sees with 2b."""
    lengths = np.ones(batch_size * world_size * 3)
    alone = base_batches(lengths, 1, seed=seed, batch_size=batch_size * world_size)
    ranks = all_ranks(lengths, 1, world_size, seed=seed, batch_size=batch_size)
    together = [np.concatenate(batches) for batches in zip(*ranks, strict=True)]
    assert same(alone, together)


def test_epochs_and_seeds_differ():
    lengths = np.linspace(1, 2, 100)
    for options in (
        {},
        {"num_buckets": 4},
        {"weights": np.ones(100)},
        {"sources": [PlanSource(0, 50), PlanSource(50, 100)]},
    ):
        plan = BatchPlan(lengths, seed=1, batch_size=8, **options)
        assert not same(plan.batches(1), plan.batches(2))
        assert not same(plan.batches(1), base_batches(lengths, 1, seed=2, batch_size=8, **options))
    ordered = base_batches(lengths, 5, seed=1, batch_size=8, shuffle=False)
    assert clips(ordered) == list(range(100))


@pytest.mark.parametrize("options", [{}, {"num_buckets": 3}, {"weights": np.ones(357)}])
def test_training_batches_are_of_even_size(options):
    lengths = np.linspace(1, 10, 357)
    sizes = {len(batch) for batch in base_batches(lengths, 0, seed=0, batch_size=16, **options)}
    assert max(sizes) == 16 and min(sizes) >= 13


def test_the_last_round_is_shared_out_evenly():
    """100 clips in batches of 10 for 4 ranks: two rounds, then two batches in four parts."""
    ranks = all_ranks(np.ones(100), 1, 4, seed=0, batch_size=10)
    assert [[len(batch) for batch in batches] for batches in ranks] == [[10, 10, 5]] * 4
    assert sorted(clips([batch for batches in ranks for batch in batches])) == list(range(100))
    sizes = [len(part) for part in split_among([np.arange(9), np.arange(3), np.arange(2)], 6)]
    assert sizes == [3, 2, 2, 2, 3, 2] or sorted(sizes) == [2, 2, 2, 2, 3, 3]
    assert [part.tolist() for part in split_among([np.arange(2), np.arange(1)], 9)] == [[0], [1], [0]]


def test_clips_come_twice_only_where_there_are_fewer_than_ranks():
    ranks = all_ranks(np.ones(9), 1, 4, seed=0, batch_size=2)
    everything = clips([batch for batches in ranks for batch in batches])
    assert [len(batches) for batches in ranks] == [2] * 4
    # Batches of 1, 2, 2, 2 in the first round; the last two clips go to two ranks, two get early ones.
    assert len(everything) == 11 and len(set(everything)) == 9
    last = [batches[-1].tolist() for batches in ranks]
    assert len({clip for (clip,) in last}) == 4


@settings(common, max_examples=50)
@given(durations)
def test_a_clip_over_the_limit_is_refused(lengths):
    assume(lengths.max() > 1)
    with pytest.raises(ConfigError, match=r"data\.max_duration_s is .* but the longest clip has") as error:
        BatchPlan(lengths, seed=0, max_duration_s=float(lengths.max()) / 2)
    assert f"{lengths.max():g} s" in str(error.value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, "one of data.batch_size and data.max_duration_s"),
        ({"batch_size": 4, "world_size": 2, "rank": 2}, ConfigError, "rank 2 of 2"),
        ({"batch_size": 4, "weights": np.ones(9)}, DataError, "shape .9,. for 10 clips"),
        ({"batch_size": 4, "weights": np.zeros(10)}, DataError, "not all zero"),
        ({"batch_size": 4, "weights": np.full(10, np.nan)}, DataError, "finite"),
        ({"batch_size": 4, "weights": np.linspace(-1, 1, 10)}, DataError, "none negative"),
        ({"batch_size": 4, "sources": []}, ConfigError, "data.sources is empty"),
        (
            {"batch_size": 4, "sources": [PlanSource(0, 10), PlanSource(10, 10)]},
            DataError,
            "source 1 .*empty",
        ),
        ({"batch_size": 4, "sources": [PlanSource(0, 11)]}, DataError, "from 0 to 11 of 10"),
        ({"batch_size": 4, "sources": [PlanSource(0, 9, 0.0)]}, ConfigError, r"sources\[0\].weight is 0"),
        (
            {"batch_size": 4, "weights": np.eye(10)[3], "sources": [PlanSource(0, 4), PlanSource(4, 10)]},
            DataError,
            "source 1 .*weight above 0",
        ),
    ],
)
def test_what_makes_no_plan(options, error, message):
    with pytest.raises(error, match=message):
        BatchPlan(np.ones(10), seed=0, **options)


def test_an_empty_manifest_makes_no_plan():
    with pytest.raises(DataError, match="no clips"):
        BatchPlan(np.ones(0), seed=0, batch_size=4)
    with pytest.raises(ValueError, match="first is -1"):
        BatchPlan(np.ones(3), seed=0, batch_size=4).batches(0, first=-1)
