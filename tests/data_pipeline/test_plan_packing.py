"""How clips become batches: filled up to limits, of even sizes, within length buckets."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_strategies import base_batches, durations, seeds, training_plans

from audiotag.data import packing
from audiotag.data.packing import even_bounds, even_out_ends, filled_bounds, length_buckets

common = settings(deadline=None, derandomize=True)


def filled_one_by_one(lengths, groups, batch_size, max_duration_s):
    """What `filled_bounds` says, by the book."""
    bounds = [0]
    for position, duration in enumerate(lengths.tolist()):
        batch = [*lengths[bounds[-1] : position].tolist(), duration]
        over = len(batch) > batch_size or len(batch) * max(batch) > max_duration_s
        if position and (position in groups or over):
            bounds.append(position)
    return [*bounds, len(lengths)]


@st.composite
def grouped(draw):
    lengths = draw(durations)
    borders = draw(st.sets(st.integers(1, len(lengths)), max_size=4))
    return lengths, np.array(sorted({0, len(lengths), *borders}))


@settings(common, max_examples=200)
@given(grouped(), st.sampled_from([1, 3, 16, 1000]), st.sampled_from([30.0, 45.5, 200.0, 5000.0]))
def test_batches_are_filled_up_to_the_limits(groups, batch_size, max_duration_s):
    lengths, borders = groups
    bounds = filled_bounds(lengths, borders, batch_size, max_duration_s)
    assert bounds.tolist() == filled_one_by_one(lengths, borders, batch_size, max_duration_s)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_the_size_of_the_chunks_changes_nothing(chunk, monkeypatch):
    lengths = np.random.default_rng(0).uniform(0.3, 20, 500).astype(np.float32)
    groups = np.array([0, 120, 121, 500])
    expected = filled_bounds(lengths, groups, 50, 100.0)
    monkeypatch.setattr(packing, "CHUNK", chunk)
    assert filled_bounds(lengths, groups, 50, 100.0).tolist() == expected.tolist()


@settings(common, max_examples=100)
@given(grouped(), st.integers(1, 50))
def test_even_batches_are_as_few_as_can_be(groups, batch_size):
    _, borders = groups
    bounds = even_bounds(borders, batch_size)
    assert set(borders.tolist()) <= set(bounds.tolist())
    for start, end in pairwise(borders):
        sizes = np.diff(bounds[(bounds >= start) & (bounds <= end)])
        assert len(sizes) == -(-(end - start) // batch_size)
        assert (
            sizes.sum() == end - start and 0 <= sizes.max() - sizes.min() <= 1 and sizes.max() <= batch_size
        )


@settings(common, max_examples=100)
@given(grouped(), st.sampled_from([30.0, 90.0]))
def test_the_ends_of_groups_are_evened_out_within_the_limit(groups, max_duration_s):
    lengths, borders = groups
    bounds = filled_bounds(lengths, borders, len(lengths), max_duration_s)
    evened = even_out_ends(bounds, borders, lengths, max_duration_s)
    assert len(evened) == len(bounds) and set(borders.tolist()) <= set(evened.tolist())
    for start, end in pairwise(evened):
        assert start < end and (end - start) * float(lengths[start:end].max()) <= max_duration_s


def test_no_single_clip_is_left_for_the_last_batch():
    sizes = [len(batch) for batch in base_batches(np.full(33, 10.0), 0, seed=0, max_duration_s=160.0)]
    assert sizes == [16, 9, 8]


@settings(common, max_examples=100)
@given(durations, st.integers(1, 12))
def test_buckets_are_ranges_of_length(lengths, count):
    bucket = length_buckets(lengths, count)
    assert set(bucket.tolist()) == set(range(bucket.max() + 1)) and bucket.max() < count
    order = np.argsort(lengths, kind="stable")
    assert (np.diff(bucket[order].astype(int)) >= 0).all()
    for length in np.unique(lengths):
        assert len(set(bucket[lengths == length].tolist())) == 1


@settings(common, max_examples=30)
@given(seeds, st.integers(2, 20))
def test_buckets_have_about_the_same_total_duration(seed, count):
    lengths = np.random.default_rng(seed).gamma(2.0, 3.0, 4000).astype(np.float32)
    totals = np.bincount(length_buckets(lengths, count), weights=lengths)
    assert len(totals) == count
    assert np.abs(totals - lengths.sum() / count).max() <= 2 * lengths.max()


def test_many_clips_of_one_length_leave_the_others_their_buckets():
    """9 of 10 clips have 10 s, as in AudioSet: the short ones still get buckets of narrow ranges."""
    rng = np.random.default_rng(0)
    lengths = np.where(rng.random(5000) < 0.9, 10.0, rng.uniform(0.5, 10.0, 5000)).astype(np.float32)
    bucket = length_buckets(lengths, 20)
    assert bucket.max() == 19
    short = lengths < 9.9
    assert bucket[short].max() < bucket[lengths == 10.0].min() or len(set(bucket[short].tolist())) >= 19
    totals = np.bincount(bucket[short], weights=lengths[short])[:18]
    assert totals.max() / totals.min() < 1.3


def test_few_lengths_have_a_bucket_each():
    assert length_buckets(np.array([5.0, 1.0, 5.0, 3.0]), 3).tolist() == [2, 0, 2, 1]
    assert length_buckets(np.array([5.0, 5.0]), 3).tolist() == [0, 0]


@settings(common, max_examples=60)
@given(training_plans(), st.integers(0, 3))
def test_no_batch_mixes_buckets(plan, epoch):
    lengths, options = plan
    bucket = length_buckets(lengths, options["num_buckets"])
    for batch in base_batches(lengths, epoch, **options):
        assert len(set(bucket[batch].tolist())) == 1


def test_batches_of_buckets_come_in_random_order():
    lengths = np.linspace(1, 10, 2000).astype(np.float32)
    bucket = length_buckets(lengths, 5)
    for limit in ({"batch_size": 16}, {"max_duration_s": 60.0}):
        options = {"seed": 0, "num_buckets": 5, **limit}
        first, second = (
            [int(bucket[batch[0]]) for batch in base_batches(lengths, epoch, **options)] for epoch in (0, 1)
        )
        assert first != second
        assert np.count_nonzero(np.diff(first)) > 0.7 * len(first)


def test_buckets_save_padding():
    lengths = np.random.default_rng(0).uniform(1, 10, 3000).astype(np.float32)

    def padded(num_buckets):
        batches = base_batches(lengths, 0, seed=0, batch_size=16, num_buckets=num_buckets)
        return sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum()

    assert padded(1) > 1.6
    assert padded(20) < 1.1
