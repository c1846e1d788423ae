"""The tiny BEATs on a GPU: the original's numbers, training in every precision, and bounded memory."""

from __future__ import annotations

import pytest
import torch

from audiotag.encoders.beats.encoder import Beats
from audiotag.frontend import Frontend
from audiotag.labels import Label, LabelTable
from audiotag.losses import BinaryCrossEntropy
from audiotag.tagger import Tagger
from audiotag.training.acceleration import accelerate
from tests.encoders.beats.reference import our_name, part, reference_tagger, tiny_beats
from tests.gpu.bands import assert_the_loss_falls

pytestmark = pytest.mark.gpu

FRAMES = {"masked": [118, 68], "nomask": [118, 118]}


@pytest.fixture
def recorded(vectors):
    return vectors("beats/tiny_model")


@pytest.fixture
def features(vectors, device):
    return vectors("beats/fbank")["fbank"].to(device)


@pytest.mark.parametrize("compile", ["off", "blocks", "model"])
@pytest.mark.parametrize("frames", FRAMES)
def test_logits_and_loss(device, recorded, features, frames, compile):
    torch.compiler.reset()
    tagger = reference_tagger().to(device).eval()
    accelerate(tagger, compile=compile)
    with torch.no_grad():
        logits = tagger(features, torch.tensor(FRAMES[frames], device=device))
        loss = BinaryCrossEntropy(torch.ones(10, device=device))(logits, recorded["input.target"].to(device))
    torch.testing.assert_close(logits.cpu(), recorded[f"{frames}.act.logits"], atol=1e-4, rtol=0)
    assert loss.item() == pytest.approx(recorded[f"{frames}.loss.bce"].item(), abs=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("compile", ["off", "blocks"])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_every_gradient(device, recorded, features, ratio, compile, checkpointing):
    torch.compiler.reset()
    tagger = reference_tagger(gradient_decay=ratio).to(device)
    accelerate(tagger, compile=compile, activation_checkpointing=checkpointing)
    logits = tagger(features, torch.tensor(FRAMES["masked"], device=device))
    BinaryCrossEntropy(torch.ones(10, device=device))(logits, recorded["input.target"].to(device)).backward()
    for name, expected in part(recorded, f"masked.grad_ratio{ratio:g}.").items():
        gradient = tagger.get_parameter(our_name(name)).grad.cpu()
        tolerance = 2e-3 * float(expected.abs().max()) + 1e-7
        assert float((gradient - expected).abs().max()) <= tolerance, name


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.02), (torch.bfloat16, 0.15)])
def test_logits_in_half_precision(device, recorded, features, dtype, tolerance):
    tagger = reference_tagger().to(device).eval()
    with torch.no_grad(), torch.autocast(device.type, dtype=dtype):
        logits = tagger(features, torch.tensor(FRAMES["masked"], device=device))
    torch.testing.assert_close(logits.float().cpu(), recorded["masked.act.logits"], atol=tolerance, rtol=0)


@pytest.mark.parametrize("compile", ["off", "blocks"])
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16], ids=["off", "fp16", "bf16"])
def test_the_loss_falls(device, dtype, compile):
    torch.compiler.reset()
    labels = LabelTable([Label(i, f"/m/{i}", f"band {i}") for i in range(4)])
    tagger = Tagger(Frontend("beats128"), tiny_beats(), labels, None).to(device)
    accelerate(tagger, compile=compile)
    assert_the_loss_falls(tagger, device, dtype, num_mel_bins=128, noise=(0.0, 0.3), louder=1.0, rate=3e-3)


def test_base_size_trains_in_bounded_memory(device):
    """A gradient of eight 10 s clips in bf16, without recomputing anything."""
    torch.manual_seed(0)
    labels = LabelTable([Label(i, f"/m/{i}", f"class {i}") for i in range(527)])
    tagger = Tagger(Frontend("beats128"), Beats(), labels, None).to(device).train()
    torch.cuda.reset_peak_memory_stats(device)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = tagger(torch.randn(8, 998, 128, device=device), torch.full((8,), 998, device=device))
    BinaryCrossEntropy(torch.ones(527, device=device))(logits, torch.zeros(8, 527, device=device)).backward()
    # Weights and gradients are 0.7 GB. Of each of the 12 blocks stay the bias that the gates make, 8 x 12 x
    # 496^2 numbers in float32 and once more in bf16 (0.14 GB), and activations of 8 x 496 tokens (0.2 GB).
    assert torch.cuda.max_memory_allocated(device) < 8 * 2**30
