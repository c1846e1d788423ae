from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.corpora import moments as module
from audiotag.corpora.moments import Moments, measure, spread_positions
from audiotag.data.index import IndexedManifest
from audiotag.frontend import Frontend


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=12),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**16),
)
def test_merged_moments_are_those_of_all_values(sizes, mean, std, seed):
    """Also where the mean is large against the deviation, and whatever the order."""
    values = mean + std * np.random.default_rng(seed).standard_normal(sum(sizes))
    parts = [torch.from_numpy(part) for part in np.split(values, np.cumsum(sizes)[:-1])]
    for order in (parts, parts[::-1]):
        merged = sum(map(Moments.of, order), Moments())
        assert merged.count == len(values)
        assert merged.mean == pytest.approx(values.mean(), rel=1e-12, abs=1e-12)
        assert merged.std == pytest.approx(values.std(), rel=1e-6, abs=1e-9 * abs(mean))


def test_a_small_deviation_around_a_large_mean():
    """Sums of squares in float64 would have lost it."""
    part = Moments.of(torch.tensor([1e9 - 1, 1e9 + 1], dtype=torch.float64))
    assert sum([part] * 1000, Moments()).std == pytest.approx(1.0, rel=1e-9)


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 300))
def test_positions_are_spread_evenly(size, most):
    positions = spread_positions(size, most)
    assert len(positions) == len(np.unique(positions)) == min(size, most)
    assert positions.min() >= 0 and positions.max() < size
    gaps = np.diff(positions, prepend=-1, append=size)
    assert gaps.min() >= 1 and gaps.max() <= 2 * math.ceil(size / most)
    np.testing.assert_array_equal(positions, spread_positions(size, most))


def test_part_of_a_large_split_stands_for_all(prepared, monkeypatch, caplog):
    manifest = IndexedManifest(prepared.manifests / "cuts_train.jsonl")
    frontend = Frontend("ast128", 64, normalize=False)
    whole = measure("train", manifest, frontend, "on_the_fly", 1)
    monkeypatch.setattr(module, "MOST_CLIPS", 14)
    monkeypatch.setattr(module, "CLIPS_PER_TASK", 4)
    with caplog.at_level("INFO"):
        part = measure("train", manifest, frontend, "on_the_fly", 2)
    assert (part["num_clips"], part["of_clips"]) == (14, len(manifest))
    assert f"over 14 of {len(manifest)} clips" in caplog.text
    assert part["mean"] == pytest.approx(whole["mean"], abs=0.3 * whole["std"])
    assert part != {**whole, "num_clips": 14}
    assert part == measure("train", manifest, frontend, "on_the_fly", 1)
