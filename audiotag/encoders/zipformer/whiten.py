"""The Whiten module: keeps the channels' covariance near to white by what it does to the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from audiotag.encoders.zipformer.gradients import unless_it_fails, widest
from audiotag.encoders.zipformer.steps import AdaptiveChance, Number, Step, at


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
    # A compiler counts on the layout that the operation has promised.
    return grad.clone() if changed is grad else torch.empty_like(grad).copy_(changed)


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
    shrunk = covariance - metric * power * torch.eye(covariance.shape[1], device=x.device).to(covariance)
    return metric, (groups @ shrunk).transpose(0, 1).reshape(x.shape)
