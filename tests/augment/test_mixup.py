"""Mixup: the original's vectors, the distribution of the weights, lengths, means and labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import choices, clips_of, many_choices, noise
from safetensors.torch import load_file
from scipy.stats import beta, kstest

from audiotag.augment.clips import to_features
from audiotag.augment.mixup import Mixup, mix
from audiotag.frontend import Frontend

DATA = Path(__file__).parents[1] / "data"
AST = {"probability": 0.5, "alpha": 10.0, "partner": "corpus", "length": "clip", "remove_mean": True}
BEATS = {"probability": 1.0, "alpha": 0.8, "partner": "batch", "length": "clip", "remove_mean": False}


def with_partners(clips, rows, partners):
    """A batch for some rows of which the loader brought partners."""
    return replace(clips, partner_rows=np.asarray(rows), partners=partners)


@pytest.mark.parametrize("name", ["b_short", "c_long"])
def test_the_originals_mixture(name):
    vectors = load_file(DATA / "augment" / "mixup.safetensors")
    wave = load_file(DATA / "ast" / "features.safetensors")["wave.a"]
    labels = torch.zeros(1, 6)
    labels[0, [4, 5] if name == "b_short" else [0]] = 1.0
    clip, partner = (
        replace(clips_of(samples[None], targets=targets), frontend=Frontend("ast128", target_frames=160))
        for samples, targets in ((wave, vectors["a.label"][None]), (vectors[f"wave.{name}"], labels))
    )
    mixed = to_features(mix(clip, partner, np.array([0.3]), shorter=False, remove_mean=True))
    torch.testing.assert_close(mixed.values[0], vectors[f"mix.{name}.input"], atol=3e-4, rtol=0)
    torch.testing.assert_close(mixed.targets[0], vectors[f"mix.{name}.label"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("alpha", [10.0, 0.8])
def test_weights_follow_the_beta_distribution_and_mix_samples_as_labels(alpha):
    ones, zeros = torch.ones(4000, 3), torch.zeros(4000, 3)
    own, other = torch.eye(2)[:1].expand(4000, 2), torch.eye(2)[1:].expand(4000, 2)
    batch = with_partners(clips_of(ones, targets=own), np.arange(4000), clips_of(zeros, targets=other))
    mixed = Mixup(**{**AST, "alpha": alpha, "remove_mean": False})(batch, choices())
    shares = mixed.values[:, 0]
    assert kstest(shares.numpy(), beta(alpha, alpha).cdf).pvalue > 1e-3
    torch.testing.assert_close(mixed.values, shares[:, None].expand(-1, 3))
    torch.testing.assert_close(mixed.targets, torch.stack([shares, 1 - shares], dim=1))
    assert mixed.partners is None


def test_only_the_loaders_rows_are_mixed():
    batch = clips_of(noise(5, 600), [600, 400, 600, 500, 600], torch.eye(5))
    partners = clips_of(noise(2, 900, seed=1), [900, 200], torch.ones(2, 5))
    mixed = Mixup(**AST)(with_partners(batch, [1, 3], partners), choices())
    for row in (0, 2, 4):
        assert torch.equal(mixed.values[row], batch.values[row])
        assert torch.equal(mixed.targets[row], batch.targets[row])
    for row in (1, 3):
        assert not torch.equal(mixed.values[row], batch.values[row])
        assert mixed.targets[row, row] == 1.0  # a shared label
        assert 0 < mixed.targets[row, 0] < 1
        assert mixed.values[row, batch.lengths[row] :].count_nonzero() == 0
    assert mixed.lengths.tolist() == batch.lengths.tolist()


@pytest.mark.parametrize("partner", ["corpus", "batch"])
def test_no_clip_chosen_changes_nothing(partner):
    batch = clips_of(noise(3, 500), [500, 450, 400])
    mixed = Mixup(**{**AST, "partner": partner, "probability": 0.0})(batch, choices())
    assert torch.equal(mixed.values, batch.values)


def test_partners_of_the_batch_are_a_permutation():
    batch = clips_of(torch.zeros(50, 4), targets=torch.eye(50))
    mixed = Mixup(**BEATS)(batch, choices())
    # Each clip gives its share to itself and the rest to whom it is a partner of.
    torch.testing.assert_close(mixed.targets.sum(dim=1), torch.ones(50))
    partners = (mixed.targets - torch.diag(mixed.targets.diag())).argmax(dim=1)
    itself = mixed.targets.diag() == 1
    assert itself.sum() < 5
    partners[itself] = torch.arange(50)[itself]
    assert sorted(partners.tolist()) == list(range(50))


def test_partners_of_the_batch_are_not_mixed_themselves():
    values = torch.tensor([[0.0], [1.0], [100.0]])
    mixed = Mixup(**BEATS)(clips_of(values, targets=torch.eye(3)), choices())
    torch.testing.assert_close(mixed.values, mixed.targets @ values)


def test_the_chance_of_a_clip():
    mixup = Mixup(**{**BEATS, "probability": 0.3})
    clips = clips_of(torch.zeros(100, 2), targets=torch.eye(100))
    share = np.mean([float((mixup(clips, c).targets.diag() < 1).float().mean()) for c in many_choices(100)])
    assert share == pytest.approx(0.3 * 0.99, abs=0.015)


def test_means_are_removed_before_and_after():
    batch = clips_of(noise(2, 800) + 0.5, [800, 600])
    partners = clips_of(noise(2, 800, seed=1) - 3.0, [500, 800])
    mixed = Mixup(**AST)(with_partners(batch, [0, 1], partners), choices())
    for row, length in enumerate([800, 600]):
        assert mixed.values[row, :length].mean().abs() < 1e-6
        # The partner's offset went before it was padded: no step is left where it ends.
        assert (mixed.values[row, 500:length].mean() - mixed.values[row, :500].mean()).abs() < 0.2
        assert mixed.values[row, length:].count_nonzero() == 0
    kept = Mixup(**{**AST, "remove_mean": False})(with_partners(batch, [0, 1], partners), choices())
    assert kept.values[0, :500].mean() < -0.5


def test_the_clips_own_length_cuts_or_pads_the_partner():
    batch = clips_of(torch.ones(2, 6), [6, 4])
    partners = clips_of(torch.full((2, 9), 3.0), [2, 9])
    mixed = mix(batch, partners, np.array([0.5, 0.5]), shorter=False, remove_mean=False)
    assert mixed.values.tolist() == [[2, 2, 0.5, 0.5, 0.5, 0.5], [2, 2, 2, 2, 0, 0]]
    assert mixed.lengths.tolist() == [6, 4]


def test_the_shorter_length_ends_the_mixture_and_trims_the_batch():
    batch = clips_of(torch.ones(3, 600), [600, 550, 500])
    partners = clips_of(torch.full((2, 900), 3.0), [450, 900])
    mixup = Mixup(**{**AST, "length": "shorter", "remove_mean": False})
    mixed = mixup(with_partners(batch, [0, 2], partners), choices())
    assert mixed.lengths.tolist() == [450, 550, 500]
    assert mixed.values.shape == (3, 550)
    assert mixed.values[0, :450].min() > 1
    assert mixed.values[0, 450:].count_nonzero() == mixed.values[2, 500:].count_nonzero() == 0


@pytest.mark.parametrize("preset", ["ast128", "icefall80"])
def test_features_are_mixed_with_partners_padded_as_the_front_end_pads(preset):
    frontend = Frontend(preset)
    batch = to_features(clips_of(noise(2, 4000), preset=preset))
    partners = to_features(clips_of(noise(1, 2000, seed=1), preset=preset))
    mixed = Mixup(**AST)(with_partners(batch, [1], partners), choices(3))
    share = (mixed.values[1, 0, 0] - partners.values[0, 0, 0]) / (
        batch.values[1, 0, 0] - partners.values[0, 0, 0]
    )
    length = int(partners.lengths[0])
    expected = share * batch.values[1] + (1 - share) * partners.padding
    expected[:length] = share * batch.values[1, :length] + (1 - share) * partners.values[0, :length]
    valid = int(batch.lengths[1])
    torch.testing.assert_close(mixed.values[1, :valid], expected[:valid], atol=1e-4, rtol=0)
    assert torch.equal(mixed.values[1, valid:], batch.values[1, valid:])
    assert torch.equal(mixed.values[0], batch.values[0])
    shorter = Mixup(**{**AST, "length": "shorter"})(
        with_partners(batch, [0, 1], partners.select(np.array([0, 0]))), choices()
    )
    # What a model takes at one size only is not trimmed.
    assert shorter.size == (frontend.target_frames or length)
    assert shorter.lengths.tolist() == [length, length]
    torch.testing.assert_close(
        shorter.values[:, length:], torch.full_like(shorter.values[:, length:], batch.padding)
    )
