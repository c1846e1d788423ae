"""Gain, white noise at an exact ratio, and noise on features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import choices, clips_of, noise
from scipy.stats import kstest, uniform

from audiotag.augment.loudness import Gain
from audiotag.augment.noise import FeatureNoise, WhiteNoise


def assert_even(numbers, lowest, highest):
    """Real numbers spread evenly over a range."""
    assert kstest(np.asarray(numbers), uniform(lowest, highest - lowest).cdf).pvalue > 1e-3


def test_gain():
    clips = clips_of(noise(4000, 10))
    changed = Gain(0.5, (-6.0, 6.0))(clips, choices())
    factors = changed.values / clips.values
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    chosen = factors[:, 0] != 1
    assert chosen.float().mean() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(changed.values[~chosen], clips.values[~chosen])
    assert_even(20 * factors[chosen, 0].log10(), -6.0, 6.0)


def test_white_noise_has_the_ratio_to_the_clips_own_energy():
    lengths = np.random.default_rng(0).integers(200, 600, 1500)
    lengths[0] = 600
    clips = clips_of(noise(1500, 600) * torch.logspace(-3, 1, 1500)[:, None], lengths)
    changed = WhiteNoise(0.6, (15.0, 40.0))(clips, choices())
    added = (changed.values - clips.values).double()
    for row, length in enumerate(lengths):
        assert changed.values[row, length:].count_nonzero() == 0
    chosen = (added != 0).any(dim=1)
    assert chosen.float().mean() == pytest.approx(0.6, abs=0.04)
    ratios = clips.values[chosen].double().square().sum(dim=1) / added[chosen].square().sum(dim=1)
    assert_even(10 * ratios.log10(), 15.0, 40.0)
    assert torch.equal(changed.values[~chosen], clips.values[~chosen])


def test_white_noise_is_gaussian_and_differs_between_clips():
    clips = clips_of(torch.ones(2, 20000))
    added = WhiteNoise(1.0, (0.0, 0.0))(clips, choices()).values - 1
    assert kstest(added[0].numpy(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(added[0], added[1])[0, 1]) < 0.03
    assert abs(np.corrcoef(added[0, 1:], added[0, :-1])[0, 1]) < 0.03


def test_silent_clips_stay_silent():
    clips = clips_of(torch.stack([torch.zeros(500), noise(500)]))
    changed = WhiteNoise(1.0, (15.0, 40.0))(clips, choices())
    assert changed.values[0].count_nonzero() == 0
    assert changed.values.isfinite().all()
    assert not torch.equal(changed.values[1], clips.values[1])


def test_feature_noise():
    clips = clips_of(torch.zeros(2000, 30, 4), [20] * 2000, padding=0.25, fixed_size=True)
    added = FeatureNoise(0.1)(clips, choices()).values - clips.values
    assert added.min() >= 0
    # The largest of 120 values is nearly the clip's factor.
    factors = added.amax(dim=(1, 2))
    assert_even(factors * 121 / 120, 0.0, 0.1)
    assert_even((added / factors[:, None, None]).flatten()[::97] * 0.999, 0.0, 1.0)
    assert (added[:, 20:] > 0).any()


def test_feature_noise_leaves_padding_where_the_size_is_not_fixed():
    clips = clips_of(noise(3, 30, 4), [30, 20, 10], padding=-23.0)
    values = FeatureNoise(0.1)(clips, choices()).values
    assert (values[1, 20:] == -23.0).all()
    assert (values[2, :10] > clips.values[2, :10]).all()
