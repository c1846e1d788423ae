"""Four kinds of noise in bands, which any encoder that learns tells apart after a few updates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from audiotag.tagger import Tagger

FRAMES = 100
CLIPS = 16


def assert_the_loss_falls(
    tagger: Tagger,
    device: torch.device,
    dtype: torch.dtype | None,
    *,
    num_mel_bins: int,
    noise: tuple[float, float],
    louder: float,
    rate: float,
    before: Callable[[int], None] = lambda step: None,
) -> None:
    """Make 80 updates, after which the loss must be less than half of what it was.

    Args:
        dtype: of autocast; None for float32.
        noise: mean and deviation of the features.
        louder: what is added to the band of a clip's kind.
        rate: of learning.
        before: called with the number of each update.
    """
    optimizer = torch.optim.AdamW(tagger.parameters(), lr=rate, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16, init_scale=1.0)
    kinds, width = torch.arange(CLIPS, device=device) % 4, num_mel_bins // 4
    losses = []
    for step in range(80):
        before(step)
        features = noise[0] + noise[1] * torch.randn(CLIPS, FRAMES, num_mel_bins, device=device)
        for kind in range(4):
            features[kind::4, :, width * kind : width * (kind + 1)] += louder
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logits = tagger(features, torch.full((CLIPS,), FRAMES, device=device))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, nn.functional.one_hot(kinds, 4).float())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    curve = torch.stack(losses).cpu()
    assert curve.isfinite().all()
    assert curve[-4:].mean() < 0.5 * curve[:4].mean(), curve
