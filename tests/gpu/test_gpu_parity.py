"""Front end and AST on a GPU against the reference vectors that the CPU tests use.

GPU tolerances: other FFT and reduction orders move log-mel values by up to 5e-3 in near-silent bins and
3e-4 elsewhere; logits of the tiny AST move by up to 1e-4, gradients by up to 2e-3 of a tensor's largest.
"""

from __future__ import annotations

import pytest
import torch

from audiotag.frontend import PRESETS, Frontend
from audiotag.losses import BinaryCrossEntropy

pytestmark = pytest.mark.gpu


def assert_log_mel_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    error = (actual.cpu() - expected).abs().flatten()
    assert error.max() <= 5e-3
    assert error.kthvalue(int(0.99 * len(error))).values <= 3e-4


def noise(device: torch.device, *lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    waveforms = 0.2 * torch.randn(len(lengths), max(lengths), generator=generator)
    return waveforms.to(device), torch.tensor(lengths, device=device)


@pytest.fixture(params=[False, True], ids=["exact", "tf32"])
def tf32(request, exact_products) -> bool:
    """Whether the user allowed TF32, which must not reach the features."""
    torch.backends.cuda.matmul.allow_tf32 = request.param
    return request.param


def test_ast_features(device, vectors, tf32):
    stored = vectors("ast/features")
    wave = stored["wave.a"].to(device)[None]
    frontend = Frontend("ast128", target_frames=160, normalize=False).to(device)
    features, _ = frontend(wave, torch.tensor([wave.shape[1]], device=device))
    assert features.is_cuda == wave.is_cuda
    assert_log_mel_near(features[0], stored["a.fbank_padded160"])


@pytest.mark.parametrize("name", ["1600", "7999", "8080", "12345", "silence"])
def test_icefall_features(device, vectors, name, tf32):
    stored = vectors("zipformer/fbank")
    wave = stored[f"wave.{name}"].to(device)[None]
    features, _ = Frontend("icefall80").to(device)(wave, torch.tensor([wave.shape[1]]))
    assert_log_mel_near(features[0], stored[f"fbank.{name}"])


def test_beats_features(device, vectors, tf32):
    stored = vectors("beats/fbank")
    lengths = torch.tensor([19200, 11000], device=device)
    features, frames = Frontend("beats128").to(device)(stored["waveform"].to(device), lengths)
    assert_log_mel_near(features, stored["fbank"])
    assert frames.tolist() == [118, 67]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_clip_in_a_padded_batch_is_as_alone(device, preset):
    frontend = Frontend(preset).to(device)
    waveforms, lengths = noise(device, 8111, 3999, 6400)
    batch, frames = frontend.extract(waveforms, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, _ = frontend.extract(waveforms[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(batch[row, : frames[row]], alone[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_ignore_autocast(device, preset, dtype):
    frontend = Frontend(preset).to(device)
    waveforms, lengths = noise(device, 8000, 5000)
    expected, _ = frontend(waveforms, lengths)
    with torch.autocast(device.type, dtype=dtype):
        features, _ = frontend(waveforms, lengths)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


def test_activations_and_losses(device, case, tagger, reference):
    x = reference["input.fbank"].to(device)
    lengths = torch.full((2,), x.shape[1], device=device)
    ast = tagger.encoder
    with torch.no_grad():
        tokens = ast.embed(x)
        first = ast.blocks[0](tokens)
        second = ast.blocks[1](first)
        logits = tagger(x, lengths)
        activations = {
            "patch_embed": ast.patch_embed(x),
            "tokens": tokens,
            "block.0": first,
            "block.1": second,
            "pooled": ast(x, lengths)[0].mean(dim=1),
            "logits": logits,
        }
    for name, values in activations.items():
        expected = reference.get(f"{case}.act.{name}")
        if expected is not None:
            torch.testing.assert_close(values.cpu(), expected, atol=1e-4, rtol=0)
    loss = BinaryCrossEntropy(torch.ones(10, device=device))(logits, reference["input.target"].to(device))
    assert loss.item() == pytest.approx(reference[f"{case}.loss.bce"].item(), abs=1e-4)


@pytest.mark.parametrize("case", ["s10", "s16"], indirect=True)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_every_gradient(device, tagger, reference, expected_gradients, compiled):
    torch.compiler.reset()
    if compiled:
        tagger.compile()
    x = reference["input.fbank"].to(device)
    logits = tagger(x, torch.full((2,), x.shape[1], device=device))
    BinaryCrossEntropy(torch.ones(10, device=device))(logits, reference["input.target"].to(device)).backward()
    gradients = {name: parameter.grad.cpu() for name, parameter in tagger.named_parameters()}
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        expected = expected_gradients[name]
        tolerance = 2e-3 * float(expected.abs().max()) + 1e-7
        assert float((gradient - expected).abs().max()) <= tolerance, name


@pytest.mark.parametrize("case", ["s10"], indirect=True)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.02), (torch.bfloat16, 0.15)])
def test_logits_in_half_precision(device, case, tagger, reference, dtype, tolerance):
    x = reference["input.fbank"].to(device)
    with torch.no_grad(), torch.autocast(device.type, dtype=dtype):
        logits = tagger(x, torch.full((2,), x.shape[1], device=device))
    torch.testing.assert_close(logits.float().cpu(), reference[f"{case}.act.logits"], atol=tolerance, rtol=0)
