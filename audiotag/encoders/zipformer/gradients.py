"""Functions that hand on what they get, and change the gradient that comes back; what those modules share.

They keep activations and parameters in ranges where a network of many layers trains well. What is computed
for that in the backward pass is in float32 at least, whatever the precision of the model.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from audiotag.encoders.zipformer.steps import Number, Scheduled, Step, at

logger = logging.getLogger(__name__)


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
        ctx.save_for_backward(((x > limit).to(torch.int8) - (x < -limit).to(torch.int8)) * flag)
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (sign,) = ctx.saved_tensors
        return grad + ctx.weight * sign.to(grad.dtype), None, None, None


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
