"""Random lengths and repetition, of samples and of frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import assert_uniform, choices, clips_of, many_choices, noise

from audiotag.augment.length import RandomLength, Repeat


def counting(count, size, first=0):
    """(B,size) whose values tell their places."""
    return torch.arange(first, first + size, dtype=torch.float32).expand(count, size).clone()


def test_every_clip_keeps_a_stretch_of_one_length_at_a_random_place():
    clips = clips_of(counting(4000, 430, first=1), [430] * 3999 + [405])
    cut = RandomLength(1.0, (410 / 16000, 410 / 16000))(clips, choices())
    assert cut.size == 410
    assert cut.lengths.tolist() == [410] * 3999 + [405]
    starts = cut.values[:3999, 0].long().numpy() - 1
    assert_uniform(starts, 0, 20)
    assert torch.equal(cut.values[:3999], counting(3999, 410) + cut.values[:3999, :1])
    # A clip that is shorter than the stretch stays whole, and padding stays zero.
    assert torch.equal(cut.values[3999, :405], clips.values[3999, :405])
    assert cut.values[3999, 405:].count_nonzero() == 0


def test_lengths_are_uniform_and_clamped_to_a_frame():
    step = RandomLength(1.0, (400 / 16000, 420 / 16000))
    sizes = [step(clips_of(noise(2, 900)), c).size for c in many_choices(2000)]
    # The ends of the range are rounded to from one side only.
    assert_uniform([size for size in sizes if 400 < size < 420], 401, 419)
    assert set(sizes) == set(range(400, 421))
    assert RandomLength(1.0, (0.001, 0.001))(clips_of(noise(2, 900)), choices()).size == 400


def test_the_chance_of_a_batch():
    step = RandomLength(0.5, (0.04, 0.04))
    clips = clips_of(noise(2, 900))
    assert np.mean([step(clips, c).size == 640 for c in many_choices(1000)]) == pytest.approx(0.5, abs=0.05)


def test_stored_frames_are_cut_by_10_ms():
    features = noise(3, 200, 5)
    cut = RandomLength(1.0, (0.8, 0.8))(clips_of(features, [200, 150, 60]), choices())
    assert cut.values.shape == (3, 80, 5)
    assert cut.lengths.tolist() == [80, 80, 60]
    windows = features[1].unfold(0, 80, 1).transpose(1, 2)
    assert (windows == cut.values[1]).all(dim=2).all(dim=1).sum() == 1
    assert torch.equal(cut.values[2, :60], features[2, :60])
    assert cut.values[2, 60:].count_nonzero() == 0


def test_a_batch_is_trimmed_to_its_longest_clip():
    clips = clips_of(noise(2, 900), [500, 450])
    assert RandomLength(1.0, (0.05, 0.05))(clips, choices()).size == 500


@pytest.mark.parametrize("bins", [None, 3])
def test_short_clips_are_repeated_and_long_ones_stay(bins):
    shape = (3, 50) if bins is None else (3, 50, bins)
    clips = clips_of(noise(*shape), [50, 12, 24])
    # 24 samples or frames
    repeated = Repeat(24 / 16000 if bins is None else 0.24)(clips, choices())
    assert repeated.lengths.tolist() == [50, 24, 24]
    assert torch.equal(repeated.values[0], clips.values[0])
    assert torch.equal(repeated.values[2], clips.values[2])
    assert torch.equal(repeated.values[1, :24], torch.cat([clips.values[1, :12]] * 2))
    assert repeated.values[1, 24:].count_nonzero() == 0


def test_the_last_repetition_is_partial_and_widens_the_batch():
    clips = clips_of(counting(2, 7, first=1), [7, 3])
    repeated = Repeat(10 / 16000)(clips, choices())
    assert repeated.lengths.tolist() == [10, 10]
    assert repeated.values.tolist() == [[1, 2, 3, 4, 5, 6, 7, 1, 2, 3], [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]]
