"""One layer of an encoder stack: feed-forward, attention and convolution branches between two bypasses.

Shapes: B clips, T frames, D width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiotag.encoders.zipformer.activations import DROPOUT, BiasNorm, SwooshLinear, keep_mask
from audiotag.encoders.zipformer.attention import (
    AttentionWeights,
    NonlinAttention,
    SelfAttention,
    constant_attention,
)
from audiotag.encoders.zipformer.balancer import Balancer
from audiotag.encoders.zipformer.gradients import RangeLimiter
from audiotag.encoders.zipformer.steps import Number, Schedule, Scheduled, Step, at
from audiotag.encoders.zipformer.whiten import Whiten


class FeedForward(nn.Module):
    """Two linears with an activation and dropout between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, hidden_dim)
        self.hidden_balancer = Balancer(min_positive=0.3, max_positive=1.0, min_abs=0.75, max_abs=5.0)
        self.out_proj = SwooshLinear(hidden_dim, dim, "l", dropout=DROPOUT, scale=0.1)
        self.out_whiten = Whiten(Schedule((0, 7.5), (20000, 15.0)))

    def forward(self, x: Tensor, step: Step | None) -> Tensor:
        """(B,T,D) to (B,T,D)."""
        hidden = self.hidden_balancer(self.in_proj(x), step)
        return self.out_whiten(self.out_proj(hidden, step), step)


class ConvModule(nn.Module):
    """A gate, a depthwise convolution over time, an activation."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, 2 * dim)
        self.balancer1 = Balancer(
            min_positive=Schedule((0, 0.05), (8000, 0.025)),
            max_positive=1.0,
            min_abs=1.5,
            max_abs=Schedule((0, 5.0), (8000, 10.0)),
        )
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.balancer2 = Balancer(
            channel_dim=1,
            min_positive=Schedule((0, 0.1), (8000, 0.05)),
            max_positive=1.0,
            min_abs=Schedule((0, 0.2), (20000, 0.5)),
            max_abs=10.0,
        )
        self.whiten = Whiten(Schedule((0, 7.5), (20000, 15.0)))
        self.out_proj = SwooshLinear(dim, dim, "r", scale=0.05)

    def forward(self, x: Tensor, padding: Tensor, step: Step | None) -> Tensor:
        """(B,T,D) and padding (B,T), True where there is no frame, to (B,T,D)."""
        signal, gate = self.in_proj(x).chunk(2, dim=-1)
        signal = signal * self.balancer1(gate, step).sigmoid()
        signal = signal.masked_fill(padding[:, :, None], 0.0)
        signal = self.balancer2(self.depthwise_conv(signal.transpose(1, 2)), step)
        return self.out_proj(self.whiten(signal.transpose(1, 2), step), step)


class Bypass(Scheduled):
    """Something between what entered and what left other modules, channel by channel.

    Args:
        dim: D.
        skip_rate: how often a clip takes nothing of what left them; None never.
    """

    def __init__(self, dim: int, skip_rate: Number | None = None) -> None:
        super().__init__()
        self.bypass_scale = nn.Parameter(torch.full((dim,), 0.5))
        self.skip_rate = skip_rate
        # At first the modules must be used, so that they learn.
        self.limiter = RangeLimiter(Schedule((0, 0.9), (20000, 0.2)), 1.0)

    def numbers(self, batch_count: float) -> list[float]:
        """The rate of skipping."""
        return [] if self.skip_rate is None else [at(self.skip_rate, batch_count)]

    def forward(self, before: Tensor, behind: Tensor, step: Step | None) -> Tensor:
        """(B,T,D) and (B,T,D) to (B,T,D)."""
        scale = self.bypass_scale
        if step is not None and self.training:
            scale = self.limiter(scale, step)
            if self.skip_rate is not None:
                scale = scale * keep_mask(before, step.numbers[self.number])
        return before + (behind - before) * scale


class Layer(Scheduled):
    """A Zipformer layer.

    Args:
        dim: D.
        pos_dim: width of the table of positions.
        num_heads, query_head_dim, pos_head_dim, value_head_dim: H, and widths of a head.
        feedforward_dim: hidden width of the second of three feed-forward parts.
        kernel_size: of the convolutions over time.
        skip_rate: how often a clip skips the layer in training.
    """

    attention_skip_rate = conv_skip_rate = Schedule((0, 0.2), (4000, 0.05), (16000, 0.0))
    ff2_skip_rate = ff3_skip_rate = Schedule((0, 0.1), (4000, 0.01), (50000, 0.0))
    const_attention_rate = Schedule((0, 0.25), (4000, 0.025))

    def __init__(
        self,
        dim: int,
        pos_dim: int,
        num_heads: int,
        query_head_dim: int,
        pos_head_dim: int,
        value_head_dim: int,
        feedforward_dim: int,
        kernel_size: int,
        skip_rate: Number,
    ) -> None:
        super().__init__()
        # Published checkpoints have it, and nothing uses it.
        self.bypass_scale = nn.Parameter(torch.full((dim,), 0.5))
        self.bypass = Bypass(dim, skip_rate)
        self.bypass_mid = Bypass(dim)
        self.self_attn_weights = AttentionWeights(dim, pos_dim, num_heads, query_head_dim, pos_head_dim)
        self.self_attn1 = SelfAttention(dim, num_heads, value_head_dim)
        self.self_attn2 = SelfAttention(dim, num_heads, value_head_dim)
        self.feed_forward1 = FeedForward(dim, 3 * feedforward_dim // 4)
        self.feed_forward2 = FeedForward(dim, feedforward_dim)
        self.feed_forward3 = FeedForward(dim, 5 * feedforward_dim // 4)
        self.nonlin_attention = NonlinAttention(dim, 3 * dim // 4)
        self.conv_module1 = ConvModule(dim, kernel_size)
        self.conv_module2 = ConvModule(dim, kernel_size)
        self.norm = BiasNorm(dim)
        rare = {"min_positive": 0.3, "max_positive": 0.7, "probability": 0.05}
        self.balancer_na = Balancer(min_abs=Schedule((0, 0.004), (4000, 0.02)), max_abs=100.0, **rare)
        self.balancer_ff2 = Balancer(min_abs=Schedule((0, 0.0), (4000, 0.1)), max_abs=2.0, **rare)
        self.balancer_ff3 = Balancer(min_abs=Schedule((0, 0.0), (4000, 0.2)), max_abs=4.0, **rare)
        self.balancer1 = Balancer(min_positive=0.45, max_positive=0.55, min_abs=0.2, max_abs=4.0)
        self.balancer2 = Balancer(min_positive=0.45, max_positive=0.55, min_abs=0.1, max_abs=4.0)
        self.whiten = Whiten(Schedule((0, 4.0), (20000, 12.0)))

    def numbers(self, batch_count: float) -> list[float]:
        """Rates at which clips skip attention, convolution, and the last two feed-forward parts."""
        rates = (self.attention_skip_rate, self.conv_skip_rate, self.ff2_skip_rate, self.ff3_skip_rate)
        return [at(rate, batch_count) for rate in rates]

    def chances(self, batch_count: float) -> list[float]:
        """Whether the non-linear attention takes all frames alike."""
        return [at(self.const_attention_rate, batch_count)]

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor, step: Step | None = None) -> Tensor:
        """(B,T,D) to (B,T,D).

        Args:
            positions: table of relative positions (2T,P).
            padding: (B,T), True where there is no frame.
            step: what training goes by; None in evaluation.
        """
        entered = x
        step = step if self.training else None
        weights = self.self_attn_weights(x, positions, padding, step)
        x = x + self.feed_forward1(x, step)

        one_head = weights[:, 0]
        if step is not None and step.may_act(self.chance):
            one_head = torch.where(step.flags[self.chance], constant_attention(one_head), one_head)
        attends = None if step is None else keep_mask(x, step.numbers[self.number])
        x = add(x, self.balancer_na(self.nonlin_attention(x, one_head, step), step), attends)
        x = add(x, self.self_attn1(x, weights, step), attends)
        x = add(x, self.conv_module1(x, padding, step), self._keep(x, 1, step))
        x = add(x, self.balancer_ff2(self.feed_forward2(x, step), step), self._keep(x, 2, step))
        x = self.bypass_mid(entered, x, step)
        x = add(x, self.self_attn2(x, weights, step), attends)
        x = add(x, self.conv_module2(x, padding, step), self._keep(x, 1, step))
        x = add(x, self.balancer_ff3(self.feed_forward3(x, step), step), self._keep(x, 3, step))

        x = self.norm(self.balancer1(x, step), step)
        x = self.bypass(entered, x, step)
        return self.whiten(self.balancer2(x, step), step)

    def _keep(self, x: Tensor, number: int, step: Step | None) -> Tensor | None:
        return None if step is None else keep_mask(x, step.numbers[self.number + number])


def add(x: Tensor, branch: Tensor, keep: Tensor | None) -> Tensor:
    """A branch added to the stream, but for the clips that leave it out."""
    return x + branch if keep is None else torch.addcmul(x, branch, keep)
