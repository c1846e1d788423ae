"""Swoosh activations, the norm with a bias, and dropout; in training they keep their inputs and no more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiotag.encoders.zipformer.gradients import RangeLimiter, widest
from audiotag.encoders.zipformer.steps import Number, Schedule, Scheduled, Step, at

# ln(1 + e^(x - shift)) - SLOPE x - constant, by kind: shift and constant.
SWOOSH = {"l": (4.0, 0.035), "r": (1.0, 0.313261687)}
SLOPE = 0.08
DROPOUT = Schedule((0, 0.3), (20000, 0.1))


def swoosh(x: Tensor, kind: str) -> Tensor:
    """SwooshL or SwooshR; computed in float32 at least."""
    shift, constant = SWOOSH[kind]
    wide = x.to(widest(x))
    y = functional.softplus(wide - shift) - SLOPE * wide - constant
    # Compiled by torch 2.11, an autograd function that returns what `.to` left as it was has a gradient of 0.
    return y if y.dtype == x.dtype else y.to(x.dtype)


def swoosh_slope(x: Tensor, kind: str) -> Tensor:
    """The derivative of `swoosh`, in float32 at least."""
    return (x.to(widest(x)) - SWOOSH[kind][0]).sigmoid_().sub_(SLOPE)


class SwooshGradient(torch.autograd.Function):
    """`swoosh` that keeps its input alone for the backward pass, in the precision it has."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kind = kind
        return swoosh(x, kind)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return swoosh_slope(x, ctx.kind).mul_(grad).to(grad.dtype), None


class Swoosh(nn.Module):
    """An activation, of kind `l` (left: SwooshL) or `r` (SwooshR)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        # Exporters know nothing of functions with a gradient of their own.
        return SwooshGradient.apply(x, self.kind) if self.training else swoosh(x, self.kind)


class SwooshLinearGradient(torch.autograd.Function):
    """linear(mask * swoosh(x)) that keeps x alone and computes the rest again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, kind: str, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mask)
        ctx.kind, ctx.dtype, ctx.bias_dtype = kind, dtype, bias.dtype
        hidden = swoosh(x, kind)
        if mask is not None:
            hidden = hidden * mask
        return functional.linear(hidden.to(dtype), weight.to(dtype), bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mask = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            grad = grad.to(ctx.dtype)
            grad_x = grad_weight = grad_bias = None
            if ctx.needs_input_grad[0]:
                grad_x = swoosh_slope(x, ctx.kind) * (grad @ weight.to(ctx.dtype))
                grad_x = (grad_x if mask is None else grad_x * mask).to(x.dtype)
            rows = grad.flatten(0, -2)
            if ctx.needs_input_grad[1]:
                hidden = swoosh(x, ctx.kind)
                hidden = hidden if mask is None else hidden * mask
                grad_weight = (rows.mT @ hidden.to(ctx.dtype).flatten(0, -2)).to(weight.dtype)
            if ctx.needs_input_grad[2]:
                grad_bias = rows.sum(dim=0, dtype=ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, None, None, None


class SwooshLinear(Scheduled):
    """Activation, dropout with one mask for all frames, and a linear layer, whose parameters are its own.

    Args:
        in_dim, out_dim: of the linear layer.
        kind: of the activation.
        dropout: rate.
        scale: of the initial parameters.
    """

    def __init__(
        self, in_dim: int, out_dim: int, kind: str, dropout: Number = 0.0, scale: float = 1.0
    ) -> None:
        super().__init__()
        linear = scaled_linear(in_dim, out_dim, scale)
        self.weight, self.bias = linear.weight, linear.bias
        self.kind = kind
        self.dropout = dropout

    def numbers(self, batch_count: float) -> list[float]:
        """The dropout rate."""
        return [at(self.dropout, batch_count)]

    def forward(self, x: Tensor, step: Step | None) -> Tensor:
        """(B,T,in) to (B,T,out)."""
        if step is None or not self.training:
            return functional.linear(swoosh(x, self.kind), self.weight, self.bias)
        # A rate that is not scheduled is 0: there is no mask.
        mask = shared_mask(x, step.numbers[self.number]) if isinstance(self.dropout, Schedule) else None
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        return SwooshLinearGradient.apply(x, self.weight, self.bias, mask, self.kind, dtype)


def scaled_linear(in_dim: int, out_dim: int, scale: float) -> nn.Linear:
    """A linear layer with small initial weights, so that its branch changes little at first."""
    linear = nn.Linear(in_dim, out_dim)
    if scale != 1.0:
        with torch.no_grad():
            linear.weight.mul_(scale)
            linear.bias.uniform_(-0.1 * scale, 0.1 * scale)
    return linear


def shared_mask(x: Tensor, rate: Tensor) -> Tensor:
    """A dropout mask (B,1,D) for x (B,T,D): the same for all frames of a clip."""
    draws = torch.rand(x.shape[0], 1, x.shape[2], device=x.device)
    return ((draws >= rate) / (1 - rate)).to(x.dtype)


def keep_mask(x: Tensor, rate: Tensor) -> Tensor:
    """(B,1,...) with as many axes as x: 0 for a clip with probability `rate`, else 1; in float32."""
    shape = [x.shape[0]] + [1] * (x.ndim - 1)
    return (torch.rand(shape, device=x.device) >= rate).to(torch.float32)


class SharedDropout(Scheduled):
    """Dropout with one mask for all frames of a clip (B,T,D)."""

    def __init__(self, rate: Number = DROPOUT) -> None:
        super().__init__()
        self.rate = rate

    def numbers(self, batch_count: float) -> list[float]:
        """The rate."""
        return [at(self.rate, batch_count)]

    def forward(self, x: Tensor, step: Step | None) -> Tensor:
        """(B,T,D) to (B,T,D)."""
        if step is None or not self.training:
            return x
        return x * shared_mask(x, step.numbers[self.number])


class BiasNormGradient(torch.autograd.Function):
    """`bias_norm` that keeps its input and one number for each frame."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, log_scale: Tensor) -> Tensor:
        wide = x.to(bias.dtype)
        inverse = (wide - bias).square().mean(dim=-1, keepdim=True).rsqrt()
        ctx.save_for_backward(x, inverse, bias, log_scale)
        return wide * (inverse * log_scale.exp())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, inverse, bias, log_scale = ctx.saved_tensors
        wide, grad = x.to(bias.dtype), grad.to(bias.dtype)
        scale = inverse * log_scale.exp()
        product = (grad * wide).sum(dim=-1, keepdim=True) * scale
        # What comes by way of the denominator; the opposite of it reaches the bias.
        below = (wide - bias) * (product * inverse.square() / x.shape[-1])
        grad_x = (grad * scale - below).to(x.dtype)
        return grad_x, below.flatten(0, -2).sum(dim=0), product.sum().reshape(log_scale.shape)


class BiasNorm(nn.Module):
    """Divides by the root mean square of the distance from a bias, and so keeps something of x's own size.

    Args:
        dim: number of channels, the last axis.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(1e-4 * torch.randn(dim))
        self.limiter = RangeLimiter(-1.5, 1.5)

    def forward(self, x: Tensor, step: Step | None) -> Tensor:
        """(...,D) to (...,D); in float32 at least, unless the parameters are not."""
        if step is not None and self.training:
            return BiasNormGradient.apply(x, self.bias, self.limiter(self.log_scale, step))
        wide = x.to(self.bias.dtype)
        inverse = (wide - self.bias).square().mean(dim=-1, keepdim=True).rsqrt()
        return wide * (inverse * self.log_scale.exp())
