"""Rolls of waveforms and features: the reference's vector, shifts, and what they go round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import assert_uniform, choices, clips_of, noise
from safetensors.torch import load_file

from audiotag.augment.roll import FeatureRoll, Roll, roll

DATA = Path(__file__).parents[1] / "data"


def shifts_of(before, after, extent):
    """The shift of each row (B,N) whose values are all different."""
    return (after == before[:, :1]).long().argmax(dim=1).numpy() % extent


def test_the_references_roll_inside_the_clips():
    vectors = load_file(DATA / "augment" / "roll.safetensors")
    amounts = vectors["roll.amounts"].numpy()
    # All places are samples here, those behind a clip's end too: they must stay.
    clips = clips_of(vectors["roll.input"])
    rolled = roll(clips, amounts - amounts % 2, vectors["roll.lengths"].numpy())
    assert torch.equal(rolled.values, vectors["roll.output_interval2"])


@pytest.mark.parametrize("shift", [0, 1, 5, 23, 40, -7])
def test_rolls_as_torch_does(shift):
    clips = clips_of(noise(2, 30), [30, 23])
    rolled = roll(clips, np.array([shift, shift]), clips.lengths)
    assert torch.equal(rolled.values[0], clips.values[0].roll(shift))
    assert torch.equal(rolled.values[1, :23], clips.values[1, :23].roll(shift))
    assert rolled.values[1, 23:].count_nonzero() == 0


def test_shifts_are_whole_seconds_below_the_longest_clip():
    clips = clips_of(torch.arange(0, 64000.0).expand(200, -1))
    rolled = Roll(1.0, 1.0)(clips, choices()).values
    shifts = (64000 - rolled[:, 0].long().numpy()) % 64000
    assert (shifts % 16000 == 0).all()
    assert_uniform(shifts // 16000, 0, 3)


def test_shifts_of_any_number_of_samples():
    clips = clips_of(torch.arange(1.0, 25.0).expand(8000, -1), [24] * 8000)
    rolled = Roll(1.0, 0.0)(clips, choices()).values
    assert_uniform(shifts_of(clips.values, rolled, 24), 0, 23)


def test_the_chance_of_a_clip():
    clips = clips_of(torch.arange(1.0, 25.0).expand(8000, -1), [24] * 8000)
    rolled = Roll(0.4, 0.0)(clips, choices()).values
    moved = (rolled != clips.values).any(dim=1).float().mean()
    assert moved == pytest.approx(0.4 * 23 / 24, abs=0.02)


def test_features_of_a_fixed_size_roll_with_their_padding():
    features = noise(6000, 40, 1)
    clips = clips_of(features, [30] * 6000, padding=0.5, fixed_size=True)
    rolled = FeatureRoll(10)(clips, choices())
    shifts = shifts_of(clips.values[:, :, 0], rolled.values[:, :, 0], 40)
    assert_uniform((shifts + 10) % 40 - 10, -10, 9)
    for row in range(20):
        assert torch.equal(rolled.values[row], clips.values[row].roll(int(shifts[row]), 0))
    # Wherever the clip went, it is inside its length.
    assert (rolled.lengths == np.where(shifts == 0, 30, 40)).all()


def test_features_of_any_size_roll_inside_the_clips():
    clips = clips_of(noise(500, 40, 2), [40] + [30] * 499, padding=-23.0)
    rolled = FeatureRoll(10)(clips, choices())
    assert (rolled.values[1:, 30:] == -23.0).all()
    assert rolled.lengths.tolist() == clips.lengths.tolist()
    shifts = shifts_of(clips.values[1:, :, 0], rolled.values[1:, :, 0], 30)
    assert set(shifts.tolist()) == {*range(10), *range(20, 30)}
