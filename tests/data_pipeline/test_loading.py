from __future__ import annotations

import numpy as np
import pytest
import soundfile
from lhotse import Recording
from manifests import record

from audiotag.data.loading import load_audio, load_features
from audiotag.errors import DataError


def tone(frequency, rate, seconds=1.0, level=0.5):
    return level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def cut_of(path, samples, rate, **options):
    soundfile.write(path, samples, rate, **options)
    return record("clip", len(samples) / rate, path=str(path), rate=rate)


def level_at(samples, frequency):
    """Amplitude of a sine in the middle of some samples at 16 kHz."""
    middle = samples[2000:-2000]
    wave = np.exp(-2j * np.pi * frequency * np.arange(len(middle)) / 16000)
    window = np.hanning(len(middle))
    return 2 * abs((middle * wave * window).sum()) / window.sum()


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE"])
def test_integer_and_float_files_have_the_same_scale(tmp_path, subtype):
    samples = load_audio(cut_of(tmp_path / "a.wav", tone(440, 16000), 16000, subtype=subtype))
    assert samples.dtype == np.float32 and samples.shape == (16000,)
    assert level_at(samples, 440) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("rate", [8000, 22050, 32000, 44100, 48000, 11025])
def test_resampling_keeps_what_is_below_nyquist(tmp_path, rate):
    samples = load_audio(cut_of(tmp_path / "a.wav", tone(1000, rate), rate))
    assert len(samples) == 16000
    assert level_at(samples, 1000) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(
    ("rate", "frequency"), [(44100, 10000), (48000, 12000), (32000, 15000), (44100, 20000)]
)
def test_resampling_removes_what_is_above_the_new_nyquist(tmp_path, rate, frequency):
    """Taking every third sample would fold the tone to another frequency at full level."""
    samples = load_audio(cut_of(tmp_path / "a.wav", tone(frequency, rate), rate))
    assert np.abs(samples[2000:14000]).max() < 0.005


def test_channels_are_mixed_down(tmp_path):
    left, right = tone(500, 16000), tone(3000, 16000)
    cut = cut_of(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000)
    cut["recording"]["sources"][0]["channels"] = cut["recording"]["channel_ids"] = [0, 1]
    both = {**cut, "type": "MultiCut", "channel": [0, 1]}
    samples = load_audio(both)
    assert level_at(samples, 500) == pytest.approx(0.25, abs=0.01)
    assert level_at(samples, 3000) == pytest.approx(0.25, abs=0.01)
    # A MonoCut names one channel, as in manifests of other toolkits.
    np.testing.assert_allclose(load_audio({**cut, "channel": 1}), right, atol=1e-4)


def test_a_part_of_a_recording(tmp_path):
    samples = tone(300, 16000, seconds=2.0)
    cut = cut_of(tmp_path / "a.flac", samples, 16000)
    part = load_audio({**cut, "start": 0.5, "duration": 0.75})
    np.testing.assert_allclose(part, samples[8000:20000], atol=1e-4)


def test_what_only_lhotse_can_read(tmp_path):
    """Transforms are followed; plain files give what lhotse gives."""
    path = tmp_path / "a.wav"
    cut_of(path, tone(440, 16000), 16000)
    plain = Recording.from_file(path).to_cut()
    faster = load_audio(plain.perturb_speed(1.25).to_dict())
    assert len(faster) == 12800 and level_at(faster, 550) == pytest.approx(0.5, rel=0.05)
    lower = load_audio(plain.resample(8000).to_dict())
    assert len(lower) == 16000 and level_at(lower, 440) == pytest.approx(0.5, rel=0.05)
    np.testing.assert_allclose(load_audio(plain.to_dict()), plain.load_audio()[0], atol=1e-6)


def test_damage_is_named(tmp_path):
    path = tmp_path / "a.wav"
    cut = cut_of(path, tone(440, 16000), 16000)
    with path.open("r+b") as file:
        file.truncate(10000)
    with pytest.raises(
        DataError, match=rf"clip clip: cannot read {path}: the manifest promises 16000 samples"
    ):
        load_audio(cut)
    with pytest.raises(DataError, match="the cut begins at sample 8000, but the file has only 4978"):
        load_audio({**cut, "start": 0.5, "duration": 0.5})
    soundfile.write(path, tone(440, 8000), 8000)
    with pytest.raises(DataError, match="the file has 8000 Hz where the manifest says 16000 Hz"):
        load_audio(cut)
    path.write_text("no sound")
    with pytest.raises(DataError, match=f"clip clip: cannot read {path}"):
        load_audio(cut)
    path.unlink()
    with pytest.raises(DataError, match=f"clip clip: cannot read {path}"):
        load_audio(cut)
    with pytest.raises(DataError, match="clip clip has no stored features: run stage 2"):
        load_features(cut)
