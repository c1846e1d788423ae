"""One row of logits for a clip from those of its windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiotag.evaluation.windowmeans import WindowMerger

COUNTS = [1, 3, 1, 1, 9, 2, 1]
CLASSES = 4


def probabilities(logits):
    return 1 / (1 + np.exp(-np.float64(logits)))


def softmax(logits):
    powers = np.exp(np.float64(logits))
    return powers / powers.sum(-1, keepdims=True)


def directly(windows, mean):
    """What the definition says of one clip's windows, written down plainly."""
    windows = np.float64(windows)
    if mean == "logits":
        return windows.mean(0)
    if mean == "max":
        return windows.max(0)
    if mean == "sigmoid":
        share = probabilities(windows).mean(0)
        return np.log(share / (1 - share))
    return np.log(softmax(windows).mean(0))


def merge(windows, counts, sizes, mean="sigmoid"):
    """Merge rows that come in batches of these sizes; positions and logits of the clips, as they come."""
    merger = WindowMerger()
    positions = np.repeat(np.arange(len(counts)), counts)
    found, merged, start = [], [], 0
    for size in sizes:
        part = slice(start, start + size)
        batch = {
            "positions": torch.from_numpy(positions[part]),
            "windows": torch.from_numpy(np.repeat(counts, counts)[part]),
            "window_mean": mean,
        }
        rows, logits = merger.merge(batch, windows[part])
        assert logits.dtype == np.float32 and len(rows) == len(logits)
        found += positions[part][rows].tolist()
        merged.append(logits)
        start += size
    return found, np.concatenate(merged)


@pytest.mark.parametrize("mean", ["logits", "max", "sigmoid", "softmax"])
@pytest.mark.parametrize("sizes", [[18], [1] * 18, [4, 4, 4, 4, 2], [2, 11, 5]])
def test_a_clip_gets_the_mean_of_its_windows_however_they_are_batched(mean, sizes):
    windows = np.random.default_rng(0).normal(0, 3, (sum(COUNTS), CLASSES)).astype(np.float32)
    windows[0] *= 1e-12  # which is lost where it is computed with
    found, merged = merge(windows, np.array(COUNTS), sizes, mean)
    assert found == list(range(len(COUNTS)))
    ends = np.cumsum(COUNTS)
    for row, count, end in zip(merged, COUNTS, ends, strict=True):
        own = windows[end - count : end]
        if count == 1:
            np.testing.assert_array_equal(row, own[0])
        else:
            np.testing.assert_allclose(row, directly(own, mean), rtol=2e-6, atol=1e-6)


def test_the_softmax_of_a_clip_is_the_mean_of_its_windows():
    windows = np.random.default_rng(1).normal(5, 2, (6, CLASSES)).astype(np.float32)
    _, [row] = merge(windows, np.array([6]), [6], "softmax")
    np.testing.assert_allclose(softmax(row), softmax(windows).mean(0), rtol=1e-5)
    # How high a window's logits are as a whole says nothing of its probabilities.
    windows += np.arange(6, dtype=np.float32)[:, None]
    _, [raised] = merge(windows, np.array([6]), [6], "softmax")
    np.testing.assert_allclose(raised, row, rtol=1e-4)


@pytest.mark.parametrize("value", [-2000.0, -90.0, -40.0, -1e-6, 0.0, 30.0, 90.0, 2000.0])
def test_nothing_is_lost_of_probabilities_near_0_and_1(value):
    windows = np.full((3, CLASSES), value, np.float32)
    _, [row] = merge(windows, np.array([3]), [2, 1], "sigmoid")
    np.testing.assert_allclose(row, windows[0], rtol=1e-6, atol=1e-12)
    # Two that are sure of it and one that is not: a third of the probability of absence.
    windows[1] = 0.0
    _, [row] = merge(np.abs(windows), np.array([3]), [3], "sigmoid")
    if value > 20:
        np.testing.assert_allclose(row, np.log(5), rtol=1e-6)


@pytest.mark.parametrize("mean", ["logits", "max", "sigmoid", "softmax"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_in_one_window_is_not_in_the_clip(mean, bad):
    windows = np.zeros((4, CLASSES), np.float32)
    windows[1, 2] = bad
    _, merged = merge(windows, np.array([3, 1]), [2, 2], mean)
    assert not np.isfinite(merged[0, 2])
    assert np.isfinite(merged[1]).all()
