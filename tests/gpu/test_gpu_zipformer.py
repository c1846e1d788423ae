"""The tiny Zipformer on a GPU: the reference's numbers, training in every precision, and no waiting."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from audiotag.encoders.zipformer import encoder as encoder_module
from audiotag.encoders.zipformer import stack as stack_module
from audiotag.encoders.zipformer.encoder import Zipformer
from audiotag.training.acceleration import accelerate
from tests.encoders.zipformer.reference import (
    deviation,
    force_determinism,
    our_name,
    part,
    reference_tagger,
    tagger_of,
    tiny_zipformer,
    whiten_always,
)
from tests.gpu.bands import assert_the_loss_falls

pytestmark = pytest.mark.gpu

# Gradients that are small sums of large numbers, which rounding moves more.
WIDER = ("downsample.bias", "downsample_output.bias", "norm.log_scale")


@pytest.fixture
def expected(vectors):
    return vectors("zipformer/tiny_eval")


def loss_of(tagger, expected, device):
    logits = tagger.from_features(expected["features"].to(device), expected["x_lens"].to(device))
    target = expected["target"].to(device)
    return logits, nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")


def check_gradients(tagger, recorded, tolerance):
    for name, value in part(recorded, "grad.").items():
        if value.any():
            gradient = tagger.get_parameter(our_name(name)).grad.cpu()
            assert deviation(gradient, value) < (2e-3 if name.endswith(WIDER) else tolerance), name


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_evaluation(device, expected, compiled):
    torch.compiler.reset()
    tagger = reference_tagger().to(device)
    if compiled:
        tagger.compile()
    logits, loss = loss_of(tagger, expected, device)
    torch.testing.assert_close(logits.detach().cpu(), expected["logits"], atol=1e-4, rtol=0)
    loss.backward()
    check_gradients(tagger, expected, 5e-4)


@pytest.mark.parametrize("compile", ["off", "blocks", "model"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_training_with_all_that_changes_gradients(
    device, expected, vectors, monkeypatch, compile, checkpointing
):
    torch.compiler.reset()
    monkeypatch.setattr(stack_module, "POSITION_DROPOUT", 0.0)
    monkeypatch.setattr(encoder_module, "FEATURE_MASK_RATE", 0.0)
    tagger = reference_tagger().to(device)
    force_determinism(tagger)
    accelerate(tagger, compile=compile, activation_checkpointing=checkpointing)
    loss_of(tagger, expected, device)[1].backward()
    check_gradients(tagger, vectors("zipformer/tiny_train"), 1e-3)


@pytest.mark.parametrize("compile", ["off", "blocks"])
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16], ids=["off", "fp16", "bf16"])
def test_the_loss_falls(device, dtype, compile):
    torch.compiler.reset()
    torch.manual_seed(0)
    tagger = tagger_of(tiny_zipformer(), 4).to(device).train()
    accelerate(tagger, compile=compile)
    assert_the_loss_falls(
        tagger,
        device,
        dtype,
        num_mel_bins=80,
        noise=(-10.0, 1.0),
        louder=5.0,
        rate=1e-3,
        before=lambda step: tagger.encoder.set_batch_count(20000.0 + step),
    )


def test_a_pass_waits_for_nothing(device):
    """Decisions are drawn on the CPU, what a Whiten finds out is read one pass late."""
    torch.manual_seed(0)
    encoder = tiny_zipformer().to(device).train()
    x, lengths = torch.randn(3, 100, 80, device=device), torch.tensor([100, 80, 60], device=device)
    whiten_always(encoder)
    for count in range(3):
        torch.cuda.set_sync_debug_mode("error" if count else "default")
        try:
            encoder.set_batch_count(count)
            encoder(x, lengths)[0].square().mean().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_restored_run_does_the_same(device):
    torch.manual_seed(0)
    encoder = tiny_zipformer().to(device).train()
    x, lengths = torch.randn(3, 100, 80, device=device), torch.tensor([100, 80, 60], device=device)

    def run(model, seed):
        torch.manual_seed(seed)
        model(x, lengths)[0].square().mean().backward()
        model.zero_grad()

    for seed in range(3):
        run(encoder, seed)
    twin = tiny_zipformer().to(device).train()
    twin.load_state_dict(encoder.state_dict())
    twin.load_training_state(encoder.training_state())
    for seed in range(3, 6):
        run(encoder, seed)
        run(twin, seed)
        found, expected = twin.training_state(), encoder.training_state()
        assert torch.equal(found["whitening"], expected["whitening"])
        assert torch.equal(found["whitening_in_use"], expected["whitening_in_use"])


def test_the_published_size_trains_in_bounded_memory(device):
    """A gradient of sixteen 10 s clips in fp16, without recomputing anything."""
    torch.manual_seed(0)
    tagger = tagger_of(Zipformer(80), 527).to(device).train()
    torch.cuda.reset_peak_memory_stats(device)
    with torch.autocast("cuda", dtype=torch.float16):
        logits = tagger(torch.randn(16, 1000, 80, device=device), torch.full((16,), 1000, device=device))
    nn.functional.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits)).backward()
    assert all(parameter.grad is not None for parameter in tagger.parameters())
    assert torch.cuda.max_memory_allocated(device) < 16 * 2**30
