"""A layer that leaves values alone and scales the gradient that comes back through it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ScaleGradient(torch.autograd.Function):
    """Values, as they are, with their gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None
