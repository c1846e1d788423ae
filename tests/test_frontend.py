"""The front end against torchaudio and reference vectors, alone and in padded batches."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from audiotag.errors import ConfigError, DataError
from audiotag.frontend import PRESETS, Frontend

DATA = Path(__file__).parent / "data"
AUDIOSET = (-4.2677393, 4.5689974)
ESC50 = (-6.6268077, 5.358466)
SPEECH_COMMANDS = (-6.845978, 5.5654526)


def noise(*lengths: int, offset: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """A padded batch of noise with an offset, and its lengths; what is behind a clip's end is not zero."""
    generator = torch.Generator().manual_seed(sum(lengths))
    waveforms = 0.2 * torch.randn(len(lengths), max(lengths), generator=generator) + offset
    return waveforms, torch.tensor(lengths)


def one(frontend: Frontend, waveform: torch.Tensor) -> torch.Tensor:
    """The finished features (T,F) of one waveform (S,)."""
    features, frames = frontend(waveform[None], torch.tensor([len(waveform)]))
    assert frames.shape == (1,)
    return features[0]


@pytest.fixture(scope="module")
def ast_features() -> dict[str, torch.Tensor]:
    return load_file(DATA / "ast" / "features.safetensors")


@pytest.mark.parametrize("num_samples", [400, 4001, 16000, 23459])
@pytest.mark.parametrize("preset", PRESETS)
def test_agrees_with_torchaudio(preset, num_samples):
    waveforms, lengths = noise(num_samples)
    scaled = waveforms * PRESETS[preset].scale
    if preset == "ast128":
        scaled = scaled - scaled.double().mean().float()
    expected = torchaudio.compliance.kaldi.fbank(
        scaled,
        num_mel_bins=PRESETS[preset].num_mel_bins,
        window_type="hanning" if preset == "ast128" else "povey",
        high_freq=-400.0 if preset == "icefall80" else 0.0,
        snip_edges=preset != "icefall80",
        dither=0.0,
    )
    raw, frames = Frontend(preset).extract(waveforms, lengths)
    assert int(frames) == len(expected) == raw.shape[1]
    torch.testing.assert_close(raw[0], expected, atol=1e-4, rtol=0)


def test_ast_reference_before_normalization(ast_features):
    wave, expected = ast_features["wave.a"], ast_features["a.fbank_unpadded"]
    raw, _ = Frontend("ast128").extract(wave[None], torch.tensor([len(wave)]))
    error = (raw[0] - expected).abs()
    assert error.max() < 2e-3
    assert error[expected > -6].max() < 1e-4
    padded = one(Frontend("ast128", target_frames=160, normalize=False), wave)
    torch.testing.assert_close(padded, ast_features["a.fbank_padded160"], atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "name, target_frames, mean, std",
    [
        ("a.input_audioset_norm", 160, None, None),
        ("a.input_audioset_norm", 160, *AUDIOSET),
        ("a.input_audioset_norm_crop100", 100, None, None),
        ("a.input_esc_norm", 160, *ESC50),
        ("a.input_sc_norm_128", 128, *SPEECH_COMMANDS),
    ],
)
def test_ast_reference_inputs(ast_features, name, target_frames, mean, std):
    features = one(Frontend("ast128", target_frames, mean, std), ast_features["wave.a"])
    torch.testing.assert_close(features, ast_features[name], atol=3e-4, rtol=0)


@pytest.mark.parametrize("name", ["1600", "7999", "8000", "8079", "8080", "12345", "silence"])
def test_icefall_reference(name):
    vectors = load_file(DATA / "zipformer" / "fbank.safetensors")
    features = one(Frontend("icefall80"), vectors[f"wave.{name}"])
    torch.testing.assert_close(features, vectors[f"fbank.{name}"], atol=1e-3, rtol=0)


def test_beats_reference_with_padding_heard_as_silence():
    vectors = load_file(DATA / "beats" / "fbank.safetensors")
    features, frames = Frontend("beats128")(vectors["waveform"], torch.tensor([19200, 11000]))
    torch.testing.assert_close(features, vectors["fbank"], atol=2e-4, rtol=0)
    assert frames.tolist() == [118, 67]
    assert features[1, -1].mean().item() == pytest.approx(-2.3917, abs=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(400, 9000), min_size=2, max_size=4))
def test_a_clip_in_a_padded_batch_is_as_alone(preset, lengths):
    frontend = Frontend(preset)
    waveforms, sizes = noise(*lengths)
    batch, frames = frontend.extract(waveforms, sizes)
    for row, length in enumerate(lengths):
        alone, alone_frames = frontend.extract(waveforms[row : row + 1, :length], sizes[row : row + 1])
        assert int(alone_frames) == int(frames[row]) == alone.shape[1] == frontend.num_frames(length)
        torch.testing.assert_close(batch[row, : frames[row]], alone[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("target_frames", [None, 30, 60])
def test_a_finished_batch_is_as_its_clips(preset, target_frames):
    lengths = (8111, 3999, 6400)
    waveforms, sizes = noise(*lengths)
    frontend = Frontend(preset, target_frames=target_frames)
    batch, frames = frontend(waveforms, sizes)
    for row, length in enumerate(lengths):
        alone = one(frontend, waveforms[row, :length])
        valid = int(frames[row])
        assert valid == min(int(frontend.num_frames(length)), batch.shape[1])
        torch.testing.assert_close(batch[row, :valid], alone[:valid], atol=2e-5, rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_stored_features_finish_like_waveforms(preset):
    waveforms, sizes = noise(8000, 5000)
    frontend = Frontend(preset)
    expected, expected_frames = frontend(waveforms, sizes)
    raw, frames = frontend.extract(waveforms, sizes)
    stored = raw.clone()
    stored[1, frames[1] :] = 0.0  # how a loader pads
    features, finished_frames = frontend.finish(stored, frames)
    assert torch.equal(finished_frames, expected_frames)
    for row in range(2):
        assert torch.equal(features[row, : frames[row]], expected[row, : frames[row]])


@pytest.mark.parametrize(
    "preset, value",
    [
        ("ast128", 4.2677393 / (2 * 4.5689974)),
        ("icefall80", math.log(1e-10)),
        ("beats128", (-15.942385 - 15.41663) / (2 * 6.55582)),
    ],
)
def test_padding_value_and_order(preset, value):
    frontend = Frontend(preset, target_frames=80)
    raw, frames = frontend.extract(*noise(8000, 4000))
    features, _ = frontend.finish(raw, frames)
    assert features.shape[1] == 80
    for row in range(2):
        np.testing.assert_allclose(features[row, frames[row] :], value, atol=1e-5)


def test_fixed_length_and_default_lengths():
    waveforms, sizes = noise(8000, 4000)
    assert Frontend("ast128")(waveforms, sizes)[0].shape == (2, 1024, 128)
    assert Frontend("icefall80")(waveforms, sizes)[0].shape == (2, 50, 80)
    assert Frontend("beats128")(waveforms, sizes)[0].shape == (2, 48, 128)
    features, frames = Frontend("icefall80", target_frames=40)(waveforms, sizes)
    assert features.shape == (2, 40, 80)
    assert frames.tolist() == [40, 25]


def test_finish_takes_the_longest_clip_as_length():
    features, frames = Frontend("icefall80").finish(torch.zeros(2, 50, 80), torch.tensor([31, 20]))
    assert features.shape == (2, 31, 80)
    assert frames.tolist() == [31, 20]


@pytest.mark.parametrize("num_samples", [80, 81, 119, 120, 150, 239, 401])
def test_short_clips_are_mirrored_again_and_again(num_samples):
    waveforms, lengths = noise(num_samples, 500)
    clip = waveforms[0, :num_samples]
    mirrored = torch.from_numpy(np.pad(clip.numpy(), (120, 400), mode="symmetric"))
    expected = torchaudio.compliance.kaldi.fbank(
        mirrored[None], num_mel_bins=80, high_freq=-400.0, snip_edges=True, dither=0.0
    )
    raw, frames = Frontend("icefall80").extract(waveforms, lengths)
    valid = int(frames[0])
    assert valid == (num_samples + 80) // 160
    torch.testing.assert_close(raw[0, :valid], expected[:valid], atol=1e-4, rtol=0)


def test_clip_mean_is_of_the_clips_own_samples():
    # In quiet parts a remaining offset drowns the signal in rounding, which shows in the logarithm.
    waveforms, lengths = noise(4000, 8000, offset=0.0)
    waveforms = 1e-4 * waveforms + 0.5
    batch, frames = Frontend("ast128").extract(waveforms, lengths)
    expected = Frontend("ast128").extract(waveforms[:1, :4000] - waveforms[0, :4000].mean(), lengths[:1])[0]
    torch.testing.assert_close(batch[0, : frames[0]], expected[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("preset, shortest", [("ast128", 400), ("beats128", 400), ("icefall80", 80)])
def test_clips_without_a_frame_are_refused(preset, shortest):
    frontend = Frontend(preset)
    waveforms, lengths = noise(1000, shortest)
    assert frontend(waveforms, lengths)[1][1] == 1
    lengths[1] = shortest - 1
    with pytest.raises(DataError, match=rf"clip 1 .* {shortest - 1} samples.*at least {shortest} samples"):
        frontend(waveforms, lengths)


def test_bad_inputs_are_named():
    frontend = Frontend("ast128")
    waveforms, lengths = noise(1000, 2000)
    with pytest.raises(DataError, match=r"floats in.*int16"):
        frontend(waveforms.to(torch.int16), lengths)
    with pytest.raises(DataError, match="length is 2001 of 2000"):
        frontend(waveforms, lengths + 1)
    with pytest.raises(DataError, match=r"shapes \(2, 2000\) and \(1,\)"):
        frontend(waveforms, lengths[:1])
    with pytest.raises(DataError, match=r"128 mel bins\), found \(2, 10, 80\)"):
        frontend.finish(torch.zeros(2, 10, 80), lengths)
    with pytest.raises(ConfigError, match=r"no preset 'ast'.*ast128"):
        Frontend("ast")
    with pytest.raises(ConfigError, match="together"):
        Frontend("ast128", mean=1.0)


def test_nothing_to_train_or_to_save():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frontend = Frontend("ast128")
    assert not list(frontend.parameters())
    assert not frontend.state_dict()
    assert len(list(frontend.buffers())) == 3


def test_values_do_not_depend_on_autocast_or_default_device():
    waveforms, lengths = noise(3000)
    expected = Frontend("beats128")(waveforms, lengths)[0]
    with torch.device("meta"):
        built_elsewhere = Frontend("beats128")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = built_elsewhere(waveforms, lengths)[0]
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)


def test_lower_precision_of_matrix_products_is_kept_out_and_restored():
    frontend = Frontend("ast128")
    waveforms, lengths = noise(160000, 150000)  # processors with bf16 products use them for large ones only
    expected, _ = frontend(waveforms, lengths)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        features, _ = frontend(waveforms, lengths)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(features, expected)


def test_normalization_can_be_replaced_or_left_out():
    waveforms, lengths = noise(5000)
    raw, _ = Frontend("icefall80").extract(waveforms, lengths)
    assert torch.equal(Frontend("icefall80")(waveforms, lengths)[0], raw)
    assert torch.equal(Frontend("icefall80", normalize=False)(waveforms, lengths)[0], raw)
    scaled = Frontend("icefall80", mean=-2.0, std=4.0)(waveforms, lengths)[0]
    torch.testing.assert_close(scaled, (raw + 2.0) / 8.0)
