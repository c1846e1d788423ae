"""The Balancer: keeps each channel's mean and size in a range by what it does to the gradient.

Yao et al., "Zipformer: A faster and better encoder for automatic speech recognition", ICLR 2024.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from audiotag.encoders.zipformer.gradients import unless_it_fails, widest
from audiotag.encoders.zipformer.steps import Number, Schedule, Scheduled, Step, at

GRAD_SCALE = 0.04
USUAL_CHANCE = Schedule((0, 0.5), (8000, 0.125))
# Of a normal distribution: mean / deviation over atanh(2 share of positives - 1), and rms over mean |x|.
ATANH_TO_MEAN = 0.8139535143
ABS_TO_RMS = 1.25331413732


class Balancer(Scheduled):
    """Pushes each channel's share of positive values and its mean absolute value into a range.

    Args:
        channel_dim: axis of the channels.
        min_positive, max_positive: allowed share of positive values.
        min_abs, max_abs: allowed mean absolute value.
        probability: of acting in a pass.
    """

    def __init__(
        self,
        channel_dim: int = -1,
        *,
        min_positive: Number = 0.05,
        max_positive: Number = 0.95,
        min_abs: Number = 0.2,
        max_abs: Number = 100.0,
        probability: Number = USUAL_CHANCE,
    ) -> None:
        super().__init__()
        self.channel_dim = channel_dim
        self.min_positive, self.max_positive = min_positive, max_positive
        self.min_abs, self.max_abs = min_abs, max_abs
        self.probability = probability

    def numbers(self, batch_count: float) -> list[float]:
        """Smallest and largest mean / deviation, smallest and largest rms."""
        return [
            mean_over_deviation(at(self.min_positive, batch_count)),
            mean_over_deviation(at(self.max_positive, batch_count)),
            ABS_TO_RMS * at(self.min_abs, batch_count),
            ABS_TO_RMS * at(self.max_abs, batch_count),
        ]

    def chances(self, batch_count: float) -> list[float]:
        """Whether to act."""
        return [at(self.probability, batch_count)]

    def forward(self, x: Tensor, step: Step | None) -> Tensor:
        """x, as it is."""
        if step is None or not (self.training and x.requires_grad and step.may_act(self.chance)):
            return x
        limits = step.numbers[self.number : self.number + 4]
        return BalanceGradient.apply(x, limits, step.active[self.chance], self.channel_dim)


def mean_over_deviation(positive: float) -> float:
    """Mean over deviation of a normal distribution with this share of positive values, approximately."""
    z = 2 * positive - 1
    return ATANH_TO_MEAN * (math.log(1 + z + 1e-10) - math.log(1 - z + 1e-10)) / 2


class BalanceGradient(torch.autograd.Function):
    """The gradient of a Balancer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limits: Tensor, active: Tensor, channel_dim: int) -> Tensor:
        ctx.save_for_backward(x, limits, active)
        ctx.channel_dim = channel_dim
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, limits, active = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return balance_opaque(x, grad, limits, active, ctx.channel_dim), None, None, None
        return unless_it_fails(balance, grad, x, limits, ctx.channel_dim), None, None, None


@torch.library.custom_op("audiotag::balance", mutates_args=())
def balance_opaque(x: Tensor, grad: Tensor, limits: Tensor, active: Tensor, channel_dim: int) -> Tensor:
    """`balance` as one operation that compilers do not look into, since it may fail and may be idle."""
    if not bool(active):
        return grad.clone()
    changed = unless_it_fails(balance, grad, x, limits, channel_dim)
    # A compiler counts on the layout that the operation has promised.
    return grad.clone() if changed is grad else torch.empty_like(grad).copy_(changed)


@balance_opaque.register_fake
def _(x: Tensor, grad: Tensor, limits: Tensor, active: Tensor, channel_dim: int) -> Tensor:
    return torch.empty_like(grad)


def balance(grad: Tensor, x: Tensor, limits: Tensor, channel_dim: int) -> Tensor:
    """A gradient, changed by what a descent on the distances of x from its limits would need.

    With z = (x - mean) / deviation that is p + r z for two numbers p and r of each channel; relative to the
    gradient it has the root mean square `GRAD_SCALE` in every channel that is outside of a limit.
    """
    min_mean, max_mean, min_rms, max_rms = limits.unbind()
    x32 = x.to(widest(x))
    channel_dim %= x.ndim
    others = [dim for dim in range(x.ndim) if dim != channel_dim]
    variance, mean = torch.var_mean(x32, dim=others, correction=0, keepdim=True)
    power = variance + mean.square()
    deviation, rms = variance.clamp(min=1e-20).sqrt(), power.clamp(min=1e-20).sqrt()
    ratio = mean / deviation
    # Slopes of |ratio - clamped| by ratio, and of |log(clamped / rms)| by x over x; the number of values is
    # left out of both.
    by_ratio = ((ratio > max_mean).to(x32) - (ratio < min_mean).to(x32)) / deviation
    by_x = ((rms > max_rms).to(x32) - (rms < min_rms).to(x32)) / power.clamp(min=1e-20)
    by_x = by_x * (power >= 1e-20)
    p = by_ratio + by_x * mean
    r = (by_x * deviation - by_ratio * ratio) * (variance >= 1e-20)
    to_size = GRAD_SCALE / (p.square() + r.square()).sqrt().clamp(min=1e-20)
    slope = (x32 - mean).mul_(r * to_size / deviation).add_(p * to_size)
    grad32 = grad.to(x32)
    return slope.mul_(grad32.abs()).add_(grad32).to(grad.dtype)
