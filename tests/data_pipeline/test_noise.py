from __future__ import annotations

import numpy as np
import pytest
import torch
from manifests import noise_clips

from audiotag.corpora.features import extract_features
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio
from audiotag.data.noise import NoiseMixer, mix_log_mel, mix_waveforms
from audiotag.frontend import Frontend


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5])
def test_waveforms_are_mixed_at_the_ratio_asked_for(snr_db):
    clip, noise = rng(1).normal(0, 0.1, 8000).astype("f4"), rng(2).normal(0, 3.0, 8000).astype("f4")
    added = mix_waveforms(clip, noise, snr_db) - clip
    assert 10 * np.log10((clip**2).sum() / (added**2).sum()) == pytest.approx(snr_db, abs=0.01)
    assert np.corrcoef(added, noise)[0, 1] > 0.999


def test_silence_has_no_ratio():
    sound, silence = np.ones(10, "f4"), np.zeros(10, "f4")
    np.testing.assert_array_equal(mix_waveforms(sound, silence, 10.0), sound)
    np.testing.assert_array_equal(mix_waveforms(silence, sound, 10.0), silence)


def test_log_mel_is_mixed_as_energy():
    """log(max(1e-10, exp(a) + gain exp(b))), gain = 10^(-snr/10) E_a / E_b, written out."""
    a, b = rng(1).normal(-3, 2, (50, 8)), rng(2).normal(1, 2, (50, 8))
    a[3] = -40.0
    gain = 10 ** (-10 / 10) * np.exp(a).sum() / np.exp(b).sum()
    expected = np.log(np.maximum(1e-10, np.exp(a) + gain * np.exp(b)))
    np.testing.assert_allclose(mix_log_mel(a.astype("f4"), b.astype("f4"), 10.0), expected, atol=1e-4)
    floor = mix_log_mel(np.full((5, 4), -60.0, "f4"), np.full((5, 4), -60.0, "f4"), 0.0)
    np.testing.assert_allclose(floor, np.log(1e-10), atol=1e-4)


def test_both_domains_agree_on_independent_sounds():
    """Energies add up where sounds are independent: mixing before or after the front end is much the same."""
    frontend = Frontend("icefall80")

    def log_mel(samples):
        wave = torch.from_numpy(samples)[None]
        return frontend.extract(wave, torch.tensor([wave.shape[1]]))[0][0].numpy()

    clip, noise = (0.1 * rng(seed).standard_normal(32000).astype("f4") for seed in (1, 2))
    mixed = log_mel(mix_waveforms(clip, noise, 3.0))
    energies = np.exp(mix_log_mel(log_mel(clip), log_mel(noise), 3.0))
    assert np.exp(mixed).mean() == pytest.approx(energies.mean(), rel=0.02)
    assert np.abs(mixed - np.log(energies)).mean() < 0.5


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    plain = IndexedManifest(noise_clips(folder, 6))
    extract_features(plain, folder / "stored" / "cuts_noise.jsonl", preset="icefall80")
    return {False: plain, True: IndexedManifest(folder / "stored" / "cuts_noise.jsonl")}


@pytest.mark.parametrize("stored", [False, True])
def test_noise_covers_the_clip_and_follows_the_generator(manifests, stored):
    """The noise cuts, 0.2 s each, are chained until a clip of 2 s is covered."""
    clip = rng(5).normal(0, 0.1, (200, 80) if stored else 32000).astype("f4")
    mixer = NoiseMixer(manifests[stored], probability=1.0, snr_db=(5.0, 5.0))
    mixed = mixer(clip, rng(7), stored=stored, replaced=[])
    assert mixed.shape == clip.shape and mixed.dtype == np.float32
    changed = np.abs(mixed - clip).reshape(200, -1).max(axis=1)
    assert (changed > 0).all()
    np.testing.assert_array_equal(mixed, mixer(clip, rng(7), stored=stored, replaced=[]))
    assert (mixed != mixer(clip, rng(8), stored=stored, replaced=[])).any()


def test_probability_and_range(manifests):
    clip = load_audio(manifests[False].record(0))
    mixer = NoiseMixer(manifests[False], probability=0.3, snr_db=(10.0, 20.0))
    ratios = []
    for seed in range(400):
        added = mixer(clip, rng(seed), stored=False, replaced=[]) - clip
        if added.any():
            ratios.append(10 * np.log10((clip**2).sum() / (added**2).sum()))
    assert len(ratios) / 400 == pytest.approx(0.3, abs=0.08)
    assert 9.9 < min(ratios) < 11.5 and 18.5 < max(ratios) < 20.1
