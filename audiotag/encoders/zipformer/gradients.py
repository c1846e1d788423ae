"""Modules that hand on what they get, and change the gradient that comes back.

They keep activations and parameters in ranges where a network of many layers trains well. What they compute
in the backward pass is in float32 whatever the precision of the model. See Yao et al., "Zipformer: A faster
and better encoder for automatic speech recognition", ICLR 2024.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

from audiotag.encoders.zipformer.steps import AdaptiveChance, Number, Schedule, Scheduled, Step, at

logger = logging.getLogger(__name__)

GRAD_SCALE = 0.04
USUAL_CHANCE = Schedule((0, 0.5), (8000, 0.125))
# Of a normal distribution: (mean / deviation) over atanh(2 share of positive values - 1), and rms over mean |x|.
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
    return grad.clone() if changed is grad else changed


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


class Whiten(AdaptiveChance):
    """Keeps the covariance of the channels from getting far from a multiple of the identity.

    Args:
        limit: of the metric, which is 1 where the channels are white, above which the gradient is changed.
        grad_scale: norm of the change over that of the gradient.
        num_groups: of channels, each with a covariance of its own.
        channel_dim: axis of the channels.
    """

    def __init__(
        self, limit: Number, grad_scale: float = 0.01, num_groups: int = 1, channel_dim: int = -1
    ) -> None:
        super().__init__()
        self.limit = limit
        self.grad_scale = grad_scale
        self.num_groups = num_groups
        self.channel_dim = channel_dim

    def numbers(self, batch_count: float) -> list[float]:
        """The limit."""
        return [at(self.limit, batch_count)]

    def forward(self, x: Tensor, step: Step | None) -> Tensor:
        """x, as it is."""
        if step is None or not (self.training and x.requires_grad and step.may_act(self.chance)):
            return x
        return WhitenGradient.apply(
            x,
            step.numbers[self.number],
            step.active[self.chance],
            step.whitening,
            self.state,
            self.num_groups,
            self.grad_scale,
            self.channel_dim,
        )


class WhitenGradient(torch.autograd.Function):
    """The gradient of a Whiten."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, limit: Tensor, active: Tensor, probabilities: Tensor, *settings: Any
    ) -> Tensor:
        # Not a clone: others write to it before the backward pass comes here, which saved tensors may not.
        ctx.probabilities = probabilities
        ctx.save_for_backward(x, limit, active)
        ctx.settings = settings
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, limit, active = ctx.saved_tensors
        if torch.compiler.is_compiling():
            changed = whiten_opaque(x, grad, limit, active, ctx.probabilities, *ctx.settings)
        else:
            changed = unless_it_fails(whiten, grad, x, limit, ctx.probabilities, *ctx.settings)
        return changed, *[None] * (3 + len(ctx.settings))


@torch.library.custom_op("audiotag::whiten", mutates_args=())
def whiten_opaque(
    x: Tensor,
    grad: Tensor,
    limit: Tensor,
    active: Tensor,
    probabilities: Tensor,
    slot: int,
    num_groups: int,
    grad_scale: float,
    channel_dim: int,
) -> Tensor:
    """`whiten` as one operation that compilers do not look into, since it may fail and may be idle.

    That it writes one of the probabilities is kept from them: nothing in the same pass reads it.
    """
    if not bool(active):
        return grad.clone()
    changed = unless_it_fails(
        whiten, grad, x, limit, probabilities, slot, num_groups, grad_scale, channel_dim
    )
    return grad.clone() if changed is grad else changed


@whiten_opaque.register_fake
def _(x: Tensor, grad: Tensor, *settings: Any) -> Tensor:
    return torch.empty_like(grad)


def whiten(
    grad: Tensor,
    x: Tensor,
    limit: Tensor,
    probabilities: Tensor,
    slot: int,
    num_groups: int,
    grad_scale: float,
    channel_dim: int,
) -> Tensor:
    """A gradient, changed where x is not white enough; notes how likely the next look should be."""
    metric, slope = whiteness(x.movedim(channel_dim, -1), num_groups)
    slope = slope.movedim(-1, channel_dim)
    is_white = metric < limit
    rarely, often = AdaptiveChance.probabilities
    # By way of `data`, past the count of changes that autograd keeps: layers that come later in the backward
    # pass hold the same tensor.
    probabilities.data[slot] = torch.where(is_white, rarely, often)
    grad32 = grad.to(slope)
    norm = slope.norm() + torch.finfo(slope.dtype).tiny
    change = torch.where(is_white, 0.0, grad_scale * grad32.norm() / norm)
    return slope.mul_(change).add_(grad32).to(grad.dtype)


def whiteness(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """How far the covariance of channels (..., C) is from white, and a multiple of the metric's gradient.

    The metric is at least 1, and 1 if all eigenvalues of all groups' covariances are the same.
    """
    groups = x.to(widest(x)).reshape(-1, num_groups, x.shape[-1] // num_groups).transpose(0, 1)
    groups = groups - groups.mean(dim=1, keepdim=True)
    covariance = groups.mT @ groups
    power = covariance.diagonal(dim1=1, dim2=2).sum() / x.shape[-1]
    squares = covariance.square().sum() / x.shape[-1]
    metric = squares / (power.square() + 1e-20)
    covariance.diagonal(dim1=1, dim2=2).sub_(squares / power)
    return metric, (groups @ covariance).transpose(0, 1).reshape(x.shape)


def unless_it_fails(change: Any, grad: Tensor, *args: Any) -> Tensor:
    """The changed gradient, or the gradient as it is if changing it fails.

    Running out of memory for the sake of a small correction must not end a training run.
    """
    try:
        with torch.autocast(grad.device.type, enabled=False):
            return change(grad, *args)
    except Exception as error:
        logger.warning("%s left a gradient of shape %s unchanged: %s", change.__name__, grad.shape, error)
        return grad


def widest(x: Tensor) -> torch.dtype:
    """float32, or float64 for what is float64 already."""
    return torch.promote_types(x.dtype, torch.float32)


class LimitGradient(torch.autograd.Function):
    """Parameters, as they are; outside of a range their gradient may only lead back into it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor, flag: Tensor) -> Tensor:
        ctx.save_for_backward(x, low, high, flag)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, low, high, flag = ctx.saved_tensors
        turned = torch.where((grad > 0) & (x < low) & flag, -grad, grad)
        turned = torch.where((turned < 0) & (x > high) & flag, -turned, turned)
        return turned, None, None, None


class RangeLimiter(Scheduled):
    """Keeps a parameter within a range while it is trained.

    Args:
        low, high: the range.
    """

    probability = 0.6

    def __init__(self, low: Number, high: Number) -> None:
        super().__init__()
        self.low, self.high = low, high

    def numbers(self, batch_count: float) -> list[float]:
        """The range."""
        return [at(self.low, batch_count), at(self.high, batch_count)]

    def chances(self, batch_count: float) -> list[float]:
        """Whether to act."""
        return [self.probability]

    def forward(self, x: Tensor, step: Step | None) -> Tensor:
        """x, as it is."""
        if step is None or not (self.training and x.requires_grad and step.may_act(self.chance)):
            return x
        low, high = step.numbers[self.number], step.numbers[self.number + 1]
        return LimitGradient.apply(x, low, high, step.flags[self.chance])


class PenaltyGradient(torch.autograd.Function):
    """Values, as they are; `weight` is added to the gradient's size wherever one is beyond `limit`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float, weight: float, flag: Tensor) -> Tensor:
        # One byte for each value in place of the value.
        ctx.save_for_backward((((x > limit).to(torch.int8) - (x < -limit).to(torch.int8)) * flag))
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (sign,) = ctx.saved_tensors
        return grad + ctx.weight * sign.to(grad.dtype), None, None, None


class ScaleGradient(torch.autograd.Function):
    """Values, as they are, with their gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


class IdleParameters(torch.autograd.Function):
    """Values, as they are; the parameters that come with them get a gradient of zero.

    Without any gradient they would keep DistributedDataParallel waiting for one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        pairs = zip(ctx.saved_tensors, wanted, strict=True)
        return grad, *[torch.zeros_like(parameter) if w else None for parameter, w in pairs]
