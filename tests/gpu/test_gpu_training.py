"""A short training on a GPU from waveforms to a falling loss: every precision, compiled and not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from audiotag.labels import Label, LabelTable
from audiotag.losses import BinaryCrossEntropy
from audiotag.tagger import build_tagger

pytestmark = pytest.mark.gpu

AST = {"name": "ast", "head_norm_eps": 1e-5}
CLASSES = 4
SAMPLES = 16000
STEPS = 60


def tones(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """64 clips, each a mixture of one or two of four tones in noise, and which they are."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.zeros(64, CLASSES)
    targets[torch.arange(64), torch.arange(64) % CLASSES] = 1.0
    targets[torch.arange(64), torch.randint(0, CLASSES, (64,), generator=generator)] = 1.0
    time_s = torch.arange(SAMPLES) / 16000
    frequencies = torch.tensor([300.0, 900.0, 2000.0, 4500.0])
    waves = torch.sin(2 * math.pi * frequencies[:, None] * time_s)
    clips = 0.2 * targets @ waves + 0.02 * torch.randn(64, SAMPLES, generator=generator)
    return clips.to(device), targets.to(device)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("amp_dtype", [None, torch.float16, torch.bfloat16], ids=["off", "fp16", "bf16"])
def test_the_loss_falls(device, amp_dtype, compiled):
    torch.compiler.reset()
    torch.manual_seed(0)
    tagger = build_tagger(
        {"preset": "ast128", "target_frames": 98},
        {**AST, "embed_dim": 64, "depth": 2, "num_heads": 4, "dropout": 0.1, "drop_path": 0.1},
        LabelTable([Label(i, f"/m/{i}", f"tone {i}") for i in range(CLASSES)]),
    ).to(device)
    optimizer = torch.optim.AdamW(tagger.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype == torch.float16)
    clips, targets = tones(device)
    features, frames = tagger.frontend(clips, torch.full((64,), SAMPLES, device=device))
    assert features.isfinite().all()
    if compiled:
        tagger.compile()

    bce = BinaryCrossEntropy(torch.ones(CLASSES, device=device))
    losses = []
    for step in range(STEPS):
        batch = slice(16 * (step % 4), 16 * (step % 4) + 16)
        with torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
            logits = tagger(features[batch], frames[batch])
        loss = bce(logits, targets[batch])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(tagger.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())

    curve = torch.stack(losses).cpu()
    assert curve.isfinite().all()
    assert curve[-4:].mean() < 0.5 * curve[:4].mean(), curve
    assert all(parameter.isfinite().all() for parameter in tagger.parameters())

    tagger.eval()
    with torch.no_grad():
        logits = tagger(clips, torch.full((64,), SAMPLES, device=device))
    assert ((logits > 0) == (targets > 0)).float().mean() > 0.9


def test_base_size_trains_in_bounded_memory(device):
    """AST base takes a gradient of eight 10 s clips, in memory that attention does not square."""
    torch.manual_seed(0)
    labels = LabelTable([Label(i, f"/m/{i}", f"class {i}") for i in range(527)])
    tagger = build_tagger({"preset": "ast128"}, AST, labels).to(device)
    torch.cuda.reset_peak_memory_stats(device)
    features = torch.randn(8, 1024, 128, device=device)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = tagger(features, torch.full((8,), 1024, device=device))
    BinaryCrossEntropy(torch.ones(527, device=device))(logits, torch.zeros(8, 527, device=device)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in tagger.parameters())
    # Weights, gradients and activations are about 4 GB; written-out attention would keep
    # 12 x 8 x 12 x 1214^2 probabilities beside them, another 3.4 GB in bf16.
    assert torch.cuda.max_memory_allocated(device) < 7 * 2**30
