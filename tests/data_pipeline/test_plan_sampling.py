"""Which clips an epoch draws: passes, weights with and without replacement, sources, substitutes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_strategies import base_batches, clips, epochs, seeds, sources_of

from audiotag.data.aliastable import AliasTable
from audiotag.data.batching import BatchPlan
from audiotag.data.randomorder import derive_generator, first_of_order, random_orders
from audiotag.data.sampling import PlanSource, Sampler, split_by_weight
from audiotag.errors import ConfigError

common = settings(deadline=None, derandomize=True)
weight_lists = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=40).filter(any)


@settings(common, max_examples=100)
@given(st.integers(1, 50), st.integers(1, 120), seeds, st.integers(0, 6))
def test_samples_per_epoch_go_through_the_clips_again_and_again(size, wanted, seed, epoch):
    """The epochs in a row are passes over all clips in a row: none comes twice before each came once."""
    sampler = Sampler(size, seed=seed, samples_per_epoch=wanted)
    series = [clip for number in range(epoch + 1) for clip in sampler.draw(number).tolist()]
    assert len(series) == wanted * (epoch + 1)
    for start in range(0, len(series) - size + 1, size):
        assert sorted(series[start : start + size]) == list(range(size))


def test_each_pass_has_an_order_of_its_own():
    """Also where several passes are made at once, and where one is longer than that."""
    for size in (5, 5000):
        sampler = Sampler(size, seed=0, samples_per_epoch=3 * size)
        passes = sampler.draw(2).reshape(3, size)
        assert len({tuple(order) for order in passes.tolist()}) == 3


@settings(common, max_examples=200)
@given(weight_lists)
def test_the_alias_table_stands_for_exactly_these_weights(weights):
    weights = np.array(weights)
    table = AliasTable(weights)
    given_away = np.bincount(table.alias, weights=1 - table.keep, minlength=len(weights))
    chances = (table.keep + given_away) / len(weights)
    np.testing.assert_allclose(chances, weights / weights.sum(), rtol=1e-9, atol=1e-12)
    assert ((table.keep >= 0) & (table.keep <= 1)).all()
    assert (chances[weights == 0] == 0).all()


@pytest.mark.parametrize("options", [{}, {"num_buckets": 3}, {"num_buckets": 3, "max_duration_s": 20.0}])
def test_weights_set_the_share_of_each_clip(options):
    """Also in length buckets."""
    weights = np.array([0.0, 1.0, 2.0, 5.0, 0.0])
    lengths = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    plan = BatchPlan(lengths, seed=3, batch_size=100, weights=weights, samples_per_epoch=80_000, **options)
    drawn = clips(plan.batches(1))
    shares = np.bincount(drawn, minlength=5) / 80_000
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.01)
    assert shares[0] == shares[4] == 0
    assert drawn == clips(plan.batches(1)) != clips(plan.batches(2))


def test_weighted_draws_are_independent_of_each_other():
    """The clip after a clip has the same chances as any."""
    weights = np.array([1.0, 2.0, 3.0])
    drawn = Sampler(3, seed=0, weights=weights, samples_per_epoch=90_000).draw(1)
    pairs = np.bincount(3 * drawn[:-1] + drawn[1:], minlength=9).reshape(3, 3) / (len(drawn) - 1)
    np.testing.assert_allclose(pairs, np.outer(weights, weights) / 36, atol=0.005)


@settings(common, max_examples=100)
@given(weight_lists, seeds, epochs, st.data())
def test_without_replacement_no_clip_comes_twice(weights, seed, epoch, data):
    weights = np.array(weights)
    possible = int((weights > 0).sum())
    wanted = data.draw(st.none() | st.integers(1, possible))
    options = {"seed": seed, "weights": weights, "replacement": False, "batch_size": 4}
    drawn = clips(base_batches(np.ones(len(weights)), epoch, samples_per_epoch=wanted, **options))
    assert len(drawn) == len(set(drawn)) == (wanted or possible)
    assert (weights[drawn] > 0).all()


def test_without_replacement_each_draw_is_by_the_weights_that_are_left():
    """The chance of a pair is w_a / s * w_b / (s - w_a) for a before b, and as much for b before a."""
    weights = np.array([1.0, 0.0, 2.0, 5.0])
    sampler = Sampler(4, seed=1, weights=weights, replacement=False, samples_per_epoch=2)
    seen = Counter(tuple(sampler.draw(epoch).tolist()) for epoch in range(6000))
    assert len(seen) == 6
    for (first, second), count in seen.items():
        a, b, s = weights[first], weights[second], weights.sum()
        chance = a / s * b / (s - a) + b / s * a / (s - b)
        # Either clip comes first as often: heavy ones are not all at the start of an epoch.
        assert count / 6000 == pytest.approx(chance / 2, abs=0.02)


def test_too_many_draws_without_replacement_are_refused():
    weights = np.array([1.0, 0.0, 2.0, 5.0])
    options = {"seed": 0, "batch_size": 2, "weights": weights, "replacement": False}
    with pytest.raises(ConfigError, match=r"draws 4 clips, but only 3 .* data\.samples_per_epoch \(4\)"):
        BatchPlan(np.ones(4), samples_per_epoch=4, **options)
    sources = [PlanSource(0, 2, 2.0), PlanSource(2, 4, 1.0)]
    with pytest.raises(ConfigError, match="draws 2 clips of source 0, but only 1 "):
        BatchPlan(np.ones(4), samples_per_epoch=3, sources=sources, **options)


@settings(common, max_examples=100)
@given(st.integers(1, 60), seeds, st.integers(1, 200), st.data())
def test_every_epoch_has_the_sources_in_proportion_to_their_weights(size, seed, wanted, data):
    sources = data.draw(sources_of(size))
    sampler = Sampler(size, seed=seed, sources=sources, samples_per_epoch=wanted)
    series = {number: [] for number in range(len(sources))}
    total = sum(source.weight for source in sources)
    for epoch in range(3):
        drawn = sampler.draw(epoch)
        assert len(drawn) == wanted
        for number, source in enumerate(sources):
            own = drawn[(drawn >= source.start) & (drawn < source.end)]
            assert abs(len(own) - wanted * source.weight / total) < 1
            assert len(own) == sampler.quotas[number]
            series[number] += own.tolist()
    # Inside a source its own passes go on from epoch to epoch.
    for number, source in enumerate(sources):
        width = source.end - source.start
        for start in range(0, len(series[number]) - width + 1, width):
            assert sorted(series[number][start : start + width]) == list(range(source.start, source.end))


def test_shares_add_up_by_largest_remainders():
    assert split_by_weight(10, [1, 1, 1]) == [4, 3, 3]
    assert split_by_weight(7, [5, 3, 1]) == [4, 2, 1]
    assert split_by_weight(1, [1, 9]) == [0, 1]
    assert split_by_weight(0, [1, 2]) == [0, 0]


def test_sources_are_interleaved_at_random():
    sampler = Sampler(2000, seed=0, sources=[PlanSource(0, 500, 1.0), PlanSource(500, 2000, 3.0)])
    from_first = sampler.draw(1) < 500
    assert from_first.sum() == 500
    quarters = from_first.reshape(4, 500).sum(axis=1)
    assert (np.abs(quarters - 125) < 40).all() and len(set(quarters.tolist())) > 1
    assert (from_first != (sampler.draw(2) < 500)).any()


def test_sources_of_one_size_go_their_own_ways():
    sources = [PlanSource(0, 500), PlanSource(500, 1000)]
    for weights in (None, np.ones(1000)):
        drawn = Sampler(1000, seed=0, sources=sources, weights=weights).draw(1)
        assert drawn[drawn < 500].tolist() != (drawn[drawn >= 500] - 500).tolist()


def test_weights_hold_inside_each_source():
    weights = np.array([1.0, 3.0, 10.0, 0.0, 30.0])
    sources = [PlanSource(0, 2, 1.0), PlanSource(2, 5, 1.0)]
    drawn = Sampler(5, seed=0, weights=weights, sources=sources, samples_per_epoch=40_000).draw(1)
    shares = np.bincount(drawn, minlength=5) / 40_000
    np.testing.assert_allclose(shares, [1 / 8, 3 / 8, 1 / 8, 0, 3 / 8], atol=0.01)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.25, 0.25, 0.25, 0.25]),
        ({"weights": np.array([1.0, 0.0, 2.0, 5.0])}, [1 / 8, 0, 2 / 8, 5 / 8]),
        ({"weights": np.array([1.0, 0.0, 2.0, 5.0]), "replacement": False}, [1 / 8, 0, 2 / 8, 5 / 8]),
        ({"sources": [PlanSource(0, 1, 3.0), PlanSource(1, 4, 1.0)]}, [9 / 12, 1 / 12, 1 / 12, 1 / 12]),
    ],
)
def test_substitutes_are_drawn_like_the_epoch(options, expected):
    if "sources" in options:
        options = {**options, "samples_per_epoch": 400}
    plan = BatchPlan(np.ones(4), seed=1, batch_size=2, **options)
    drawn = np.concatenate([plan.substitutes(1, key, 4) for key in range(2000)])
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / len(drawn), expected, atol=0.02)


def test_substitutes_depend_on_seed_epoch_and_clip_only():
    lengths = np.ones(1000)
    first = BatchPlan(lengths, seed=1, batch_size=2).substitutes(1, 2**40, 5).tolist()
    other = BatchPlan(lengths, seed=1, max_duration_s=9.0, world_size=4, rank=3)
    other.batches(3)
    assert other.substitutes(1, 2**40, 5).tolist() == first
    assert other.substitutes(2, 2**40, 5).tolist() != first
    assert other.substitutes(1, 2**40 + 1, 5).tolist() != first
    assert BatchPlan(lengths, seed=2, batch_size=2).substitutes(1, 2**40, 5).tolist() != first
    with pytest.raises(ValueError, match="evaluation"):
        BatchPlan(lengths, seed=1, batch_size=2, training=False).substitutes(1, 0, 1)


@settings(common, max_examples=100)
@given(st.integers(1, 300), seeds, st.data())
def test_the_first_of_an_order_are_the_smallest(size, seed, data):
    keys = np.random.default_rng(seed).integers(1 << 64, size=size, dtype=np.uint64)
    count = data.draw(st.integers(1, size))
    expected = np.argsort(keys >> np.uint64((size - 1).bit_length()), kind="stable")[:count]
    np.testing.assert_array_equal(first_of_order(keys, count), expected)


def test_random_orders_are_all_as_likely():
    orders = random_orders(derive_generator("test", 1), 12_000, 4)
    counts = Counter(map(tuple, orders.tolist()))
    assert len(counts) == 24
    assert min(counts.values()) > 400 and max(counts.values()) < 600


def test_generators_of_other_keys_differ():
    """A seed that ends in zeros is no other than the shorter one to numpy, so purposes come last."""
    firsts = [
        derive_generator(purpose, *key).integers(1 << 62)
        for purpose in ("pass", "draw")
        for key in ((1, 2), (1, 2, 0), (0, 1, 2), (1, 0, 2), (2, 1), (1,))
    ]
    assert len(set(firsts)) == len(firsts)
