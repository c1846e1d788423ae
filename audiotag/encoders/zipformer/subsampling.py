"""Log-mel features to the frames of the first stack, at half their rate.

Shapes: B clips, T frames, F mel bins, C channels, W bins that are left, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiotag.encoders.gradientscale import ScaleGradient
from audiotag.encoders.zipformer.activations import BiasNorm, SharedDropout, Swoosh, keep_mask
from audiotag.encoders.zipformer.balancer import Balancer
from audiotag.encoders.zipformer.steps import Schedule, Scheduled, Step, at
from audiotag.encoders.zipformer.whiten import Whiten

CHANNELS = (8, 32, 128)
MIN_FRAMES = 9  # for one frame after the convolutions


class ConvNeXt(Scheduled):
    """A residual block of a large depthwise convolution and two pointwise ones."""

    skip_rate = Schedule((0, 0.2), (20000, 0.015))

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 3 * channels
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.pointwise_conv1 = nn.Conv2d(channels, hidden, 1)
        self.hidden_balancer = Balancer(1, min_positive=0.3, max_positive=1.0, min_abs=0.75, max_abs=5.0)
        self.activation = Swoosh("l")
        self.pointwise_conv2 = nn.Conv2d(hidden, channels, 1)
        with torch.no_grad():
            self.pointwise_conv2.weight.mul_(0.01)
            self.pointwise_conv2.bias.uniform_(-0.001, 0.001)
        self.out_balancer = Balancer(1, min_positive=0.4, max_positive=0.6, min_abs=1.0, max_abs=6.0)
        self.out_whiten = Whiten(5.0, channel_dim=1)

    def numbers(self, batch_count: float) -> list[float]:
        """How often a clip skips the block."""
        return [at(self.skip_rate, batch_count)]

    def forward(self, x: Tensor, step: Step | None) -> Tensor:
        """(B,C,T,W) to (B,C,T,W)."""
        hidden = self.hidden_balancer(self.pointwise_conv1(self.depthwise_conv(x)), step)
        branch = self.pointwise_conv2(self.activation(hidden))
        if step is not None and self.training:
            branch = branch * keep_mask(branch, step.numbers[self.number]).to(branch.dtype)
        return self.out_whiten(self.out_balancer(x + branch, step), step)


class Subsampling(nn.Module):
    """Three convolutions, a ConvNeXt block and a projection.

    The convolutions know nothing of padding: of a clip's last frames some see what it is padded with.

    Args:
        num_mel_bins: F.
        dim: D.
    """

    def __init__(self, num_mel_bins: int, dim: int) -> None:
        super().__init__()
        first, second, third = CHANNELS
        # Numbered as in published checkpoints, where other modules stand between the convolutions.
        self.conv = nn.ModuleDict(
            {
                "0": nn.Conv2d(1, first, 3, padding=(0, 1)),
                "2": Balancer(1, max_abs=1.0),
                "4": nn.Conv2d(first, second, 3, stride=2),
                "5": Balancer(1, max_abs=4.0),
                "7": nn.Conv2d(second, third, 3, stride=(1, 2)),
                "8": Balancer(1, max_abs=4.0),
            }
        )
        self.activation = Swoosh("r")
        self.convnext = ConvNeXt(third)
        self.out = nn.Linear(third * num_bins_left(num_mel_bins), dim)
        self.out_whiten = Whiten(Schedule((0, 4.0), (20000, 8.0)), 0.02)
        self.out_norm = BiasNorm(dim)
        self.dropout = SharedDropout()

    def forward(self, x: Tensor, step: Step | None = None) -> Tensor:
        """(B,T,F) to (B,(T-7)//2,D)."""
        step = step if self.training else None
        conv = self.conv
        x = conv["0"](x.unsqueeze(1))
        if step is not None:
            x = ScaleGradient.apply(x, 0.2)
        x = self.activation(conv["2"](x, step))
        x = self.activation(conv["5"](conv["4"](x), step))
        x = self.activation(conv["8"](conv["7"](x), step))
        x = self.convnext(x, step)
        x = self.out(x.transpose(1, 2).flatten(2))
        return self.dropout(self.out_norm(self.out_whiten(x, step), step), step)


def num_bins_left(num_mel_bins: int) -> int:
    """Mel bins after two convolutions with stride 2 and a width of 3."""
    return ((num_mel_bins - 1) // 2 - 1) // 2


def num_frames_left(num_frames: Tensor) -> Tensor:
    """Frames after the convolutions."""
    return (num_frames - 7) // 2
