"""Time warp: the values of torch's bicubic resampling, and where points and targets lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import assert_uniform, choices, clips_of, many_choices, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from audiotag.augment.timewarp import TimeWarp, warp


def resampled(frames, count):
    """Frames (T,F) as `count` frames, by torch, in float64: its float32 is off by 1e-4 at 1000 frames."""
    size = (count, frames.shape[1])
    resized = interpolate(frames.double()[None, None], size=size, mode="bicubic", align_corners=False)
    return resized[0, 0].float()


@st.composite
def moves(draw):
    length = draw(st.integers(2, 60))
    inside = st.integers(1, length - 1)
    return draw(inside), draw(inside), length


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(moves(), min_size=1, max_size=4))
def test_agrees_with_torch_clip_by_clip(drawn):
    points, targets, lengths = (torch.tensor(numbers) for numbers in zip(*drawn, strict=True))
    features = noise(len(drawn), int(lengths.max()) + 3, 7)
    warped = warp(features, points, targets, lengths)
    for row, (point, target, length) in enumerate(drawn):
        clip = features[row, :length]
        expected = [resampled(clip[:point], target), resampled(clip[point:], length - target)]
        torch.testing.assert_close(warped[row, :length], torch.cat(expected), atol=1e-5, rtol=0)


def test_agrees_with_torch_on_long_clips():
    features = noise(1, 1000, 80)
    warped = warp(features, *(torch.tensor([number]) for number in (430, 371, 998)))
    expected = torch.cat([resampled(features[0, :430], 371), resampled(features[0, 430:998], 627)])
    torch.testing.assert_close(warped[0, :998], expected, atol=1e-5, rtol=0)


def test_points_and_targets_of_clips():
    lengths = np.full(60000, 40)
    points, targets = TimeWarp("clip", 1.0, 8).draw_clips(lengths, choices())
    assert_uniform(points, 9, 31)
    for point in (9, 20, 31):
        assert_uniform(targets[points == point], point - 8, point + 8)


def test_chance_of_a_clip():
    points, targets = TimeWarp("clip", 0.9, 80).draw_clips(np.full(20000, 1000), choices())
    assert (points != targets).mean() == pytest.approx(0.9 * 160 / 161, abs=0.01)


def test_clips_warp_inside_their_own_frames():
    clips = clips_of(noise(3, 60, 5), [60, 30, 18], padding=-23.0)
    warped = TimeWarp("clip", 1.0, 8)(clips, choices())
    assert warped.lengths.tolist() == [60, 30, 18]
    for row, length in enumerate([60, 30, 18]):
        assert not torch.equal(warped.values[row, :length], clips.values[row, :length])
        assert (warped.values[row, length:] == -23.0).all()
    alone = clips.select(np.array([1]))
    points, targets = TimeWarp("clip", 1.0, 8).draw_clips(clips.lengths, choices())
    expected = warp(alone.values[:, :30], *(torch.tensor([n[1]]) for n in (points, targets, clips.lengths)))
    assert torch.equal(warped.values[1, :30], expected[0])


def test_shortest_clip_that_is_warped():
    lengths = np.repeat([5, 16, 17, 18], 1000)
    points, targets = TimeWarp("clip", 1.0, 8).draw_clips(lengths, choices())
    moved = points != targets
    assert not moved[lengths < 18].any()
    assert moved[lengths == 18].mean() == pytest.approx(16 / 17, abs=0.03)
    assert (points[lengths == 18] == 9).all()


def test_one_warp_for_a_batch():
    warping = TimeWarp("batch", 1.0, 5)
    drawn = [warping.draw_batch(np.array([30, 30, 20]), c) for c in many_choices(5000)]
    assert all(points[0] == points[1] and targets[0] == targets[1] for points, targets in drawn)
    moves = np.array([(points[0], targets[0]) for points, targets in drawn])
    assert_uniform(moves[:, 0], 5, 24)
    assert_uniform(moves[:, 1] - moves[:, 0], -4, 5)
    # A clip that ends before the point, or before its target, stays.
    for points, targets in drawn:
        reaches = max(points[0], targets[0]) < 20
        assert targets[2] == (targets[0] if reaches else points[2])


def test_a_batch_warps_as_its_padded_whole_when_clips_are_equally_long():
    clips = clips_of(noise(4, 50, 6))
    points, targets = TimeWarp("batch", 1.0, 5).draw_batch(clips.lengths, choices(1))
    point, target = int(points[0]), int(targets[0])
    assert point != target
    warped = TimeWarp("batch", 1.0, 5)(clips, choices(1)).values
    left = interpolate(clips.values[:, None, :point], (target, 6), mode="bicubic", align_corners=False)
    right = interpolate(clips.values[:, None, point:], (50 - target, 6), mode="bicubic", align_corners=False)
    torch.testing.assert_close(warped, torch.cat([left, right], dim=2)[:, 0], atol=2e-5, rtol=0)


def test_a_batch_that_is_too_short_and_the_chance_of_a_batch():
    for length, warped in ((10, False), (11, True)):
        drawn = [TimeWarp("batch", 1.0, 5).draw_batch(np.array([length]), c) for c in many_choices(50)]
        assert any(points != targets for points, targets in drawn) == warped
    drawn = [TimeWarp("batch", 0.5, 5).draw_batch(np.array([90]), c) for c in many_choices(2000)]
    share = np.mean([bool(points != targets) for points, targets in drawn])
    assert share == pytest.approx(0.5 * 0.9, abs=0.03)
