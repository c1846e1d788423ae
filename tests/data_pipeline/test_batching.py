from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from audiotag.data.batching import BatchPlan
from audiotag.errors import ConfigError, DataError

durations = st.lists(st.floats(0.5, 30.0, width=32), min_size=1, max_size=120).map(
    lambda values: np.array(values, dtype=np.float32)
)
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


def all_ranks(lengths, epoch, world_size, **options):
    """The batches of every rank, each from a plan of its own."""
    return [
        BatchPlan(lengths, world_size=world_size, rank=rank, **options).batches(epoch)
        for rank in range(world_size)
    ]


def keeps_limits(batches, lengths, batch_size=None, max_duration_s=None):
    return all(
        0 < len(batch) <= (batch_size or len(batch))
        and (max_duration_s is None or len(batch) * lengths[batch].max() <= max_duration_s + 1e-4)
        for batch in batches
    )


@settings(max_examples=200, deadline=None)
@given(durations, limits, worlds, seeds, st.integers(0, 5))
def test_training_takes_every_clip_once_and_serves_all_ranks_alike(lengths, limit, world_size, seed, epoch):
    ranks = all_ranks(lengths, epoch, world_size, seed=seed, **limit)
    assert len({len(batches) for batches in ranks}) == 1
    everything = [batch for batches in ranks for batch in batches]
    assert keeps_limits(everything, lengths, **limit)
    counts = np.bincount(np.concatenate(everything), minlength=len(lengths))
    assert (counts >= 1).all()
    # Only batches of one clip, too few to go round, bring clips a second time, and never a whole round.
    repeated = counts.sum() - len(lengths)
    assert repeated == 0 or (repeated < world_size and all(len(batch) == 1 for batch in everything))
    for rank, batches in enumerate(ranks):
        plan = BatchPlan(lengths, world_size=world_size, rank=rank, seed=seed, **limit)
        assert plan.num_batches(epoch) == len(batches)


@settings(max_examples=200, deadline=None)
@given(durations, limits, worlds, seeds)
def test_evaluation_takes_every_clip_exactly_once_in_order(lengths, limit, world_size, seed):
    ranks = all_ranks(lengths, 0, world_size, seed=seed, training=False, **limit)
    everything = [batch for batches in ranks for batch in batches]
    assert keeps_limits(everything, lengths, **limit)
    assert sorted(np.concatenate(everything).tolist()) == list(range(len(lengths)))
    counts = [len(batches) for batches in ranks]
    assert max(counts) - min(counts) <= 1 and counts == sorted(counts, reverse=True)
    dealt = [ranks[k % world_size][k // world_size] for k in range(sum(counts))]
    assert np.concatenate(dealt).tolist() == list(range(len(lengths)))


@settings(max_examples=60, deadline=None)
@given(durations, limits, worlds, seeds)
def test_the_plan_is_the_same_whenever_it_is_made(lengths, limit, world_size, seed):
    options = {"seed": seed, "world_size": world_size, "rank": world_size - 1, **limit}
    plan = BatchPlan(lengths, **options)
    plan.batches(3)
    plan.batches(7)
    again = BatchPlan(lengths.copy(), **options).batches(3)
    for batch, other in zip(plan.batches(3), again, strict=True):
        np.testing.assert_array_equal(batch, other)


@settings(max_examples=60, deadline=None)
@given(worlds, seeds, st.integers(1, 8))
def test_the_world_size_changes_who_takes_a_batch_and_not_the_order(world_size, seed, batch_size):
    """Where the number of batches is a multiple anyway, the clips come in the same global order."""
    lengths = np.ones(batch_size * world_size * 3)
    alone = BatchPlan(lengths, seed=seed, batch_size=batch_size).batches(1)
    ranks = all_ranks(lengths, 1, world_size, seed=seed, batch_size=batch_size)
    dealt = [ranks[k % world_size][k // world_size] for k in range(len(alone))]
    for batch, other in zip(alone, dealt, strict=True):
        np.testing.assert_array_equal(batch, other)


def order(plan, epoch):
    return np.concatenate(plan.batches(epoch)).tolist()


def test_epochs_and_seeds_differ():
    lengths = np.ones(100)
    plan = BatchPlan(lengths, seed=1, batch_size=8)
    assert order(plan, 1) != order(plan, 2)
    assert order(plan, 1) != order(BatchPlan(lengths, seed=2, batch_size=8), 1)
    assert order(BatchPlan(lengths, seed=1, batch_size=8, shuffle=False), 5) == list(range(100))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 50), st.integers(1, 120), seeds, st.integers(0, 6))
def test_samples_per_epoch_go_through_the_clips_again_and_again(size, wanted, seed, epoch):
    """The epochs in a row are passes over all clips in a row: none comes twice before each came once."""
    plan = BatchPlan(np.ones(size), seed=seed, batch_size=4, samples_per_epoch=wanted)
    series = [clip for number in range(epoch + 1) for clip in order(plan, number)]
    assert len(series) == wanted * (epoch + 1)
    for start in range(0, len(series) - size + 1, size):
        assert sorted(series[start : start + size]) == list(range(size))


def test_weights_set_the_share_of_each_clip():
    weights = np.array([0.0, 1.0, 2.0, 5.0, 0.0])
    plan = BatchPlan(np.ones(5), seed=3, batch_size=100, weights=weights, samples_per_epoch=80_000)
    shares = np.bincount(order(plan, 1), minlength=5) / 80_000
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.01)
    assert shares[0] == shares[4] == 0
    assert order(plan, 1) == order(plan, 1) != order(plan, 2)


@settings(max_examples=60, deadline=None)
@given(durations, limits, worlds, seeds)
def test_weighted_plans_keep_the_limits_and_serve_all_ranks_alike(lengths, limit, world_size, seed):
    weights = np.random.default_rng(seed).uniform(0.1, 1, len(lengths))
    ranks = all_ranks(lengths, 2, world_size, seed=seed, weights=weights, **limit)
    assert len({len(batches) for batches in ranks}) == 1
    assert all(keeps_limits(batches, lengths, **limit) for batches in ranks)


def test_training_batches_are_of_even_size():
    sizes = {len(batch) for batch in BatchPlan(np.ones(357), seed=0, batch_size=16).batches(0)}
    assert sizes == {15, 16}


@settings(max_examples=50, deadline=None)
@given(durations)
def test_a_clip_over_the_limit_is_refused(lengths):
    assume(lengths.max() > 1)
    with pytest.raises(ConfigError, match=r"data\.max_duration_s is .* but the longest clip has"):
        BatchPlan(lengths, seed=0, max_duration_s=float(lengths.max()) / 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, "one of data.batch_size and data.max_duration_s"),
        ({"batch_size": 4, "world_size": 2, "rank": 2}, ConfigError, "rank 2 of 2"),
        ({"batch_size": 4, "weights": np.ones(9)}, DataError, "shape .9,. for 10 clips"),
        ({"batch_size": 4, "weights": np.zeros(10)}, DataError, "not all zero"),
        ({"batch_size": 4, "weights": np.full(10, np.nan)}, DataError, "finite"),
        ({"batch_size": 4, "weights": np.linspace(-1, 1, 10)}, DataError, "none negative"),
    ],
)
def test_what_makes_no_plan(options, error, message):
    with pytest.raises(error, match=message):
        BatchPlan(np.ones(10), seed=0, **options)


def test_an_empty_manifest_makes_no_plan():
    with pytest.raises(DataError, match="no clips"):
        BatchPlan(np.ones(0), seed=0, batch_size=4)
