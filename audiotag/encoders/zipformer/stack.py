"""Stacks of layers, each at a frame rate of its own, and the ways between the rates.

Shapes: B clips, T frames, D width, P width of the table of positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiotag.encoders.zipformer.layer import Bypass, Layer
from audiotag.encoders.zipformer.positions import middle
from audiotag.encoders.zipformer.steps import Step

POSITION_DROPOUT = 0.15
Steps = Sequence[Step | None]


class Stack(nn.Module):
    """Layers at one frame rate."""

    factor = 1

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self, x: Tensor, positions: Tensor, padding: Tensor, feature_mask: Tensor | None, steps: Steps
    ) -> Tensor:
        """(B,T,D) to (B,T,D).

        Args:
            positions: table of relative positions (2N,P) of N frames, T or more.
            padding: (B,T), True where there is no frame.
            feature_mask: (B,1,D), 0 where a clip lacks a channel; None where all are there.
            steps: what training goes by, for each layer.
        """
        positions = middle(positions, x.shape[1]).to(x.dtype)
        positions = functional.dropout(positions, POSITION_DROPOUT, self.training)
        x = masked(x, feature_mask)
        for layer, step in zip(self.layers, steps, strict=True):
            x = masked(layer(x, positions, padding, step), feature_mask)
        return x


class DownsampledStack(nn.Module):
    """Layers at a lower frame rate, whose result is mixed with what entered.

    Args:
        layers: at the lower rate.
        dim: D.
        factor: frames that become one.
    """

    def __init__(self, layers: Sequence[Layer], dim: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.downsample = Downsample(factor)
        self.encoder = Stack(layers)
        self.out_combiner = Bypass(dim)

    def forward(
        self, x: Tensor, positions: Tensor, padding: Tensor, feature_mask: Tensor | None, steps: Steps
    ) -> Tensor:
        """(B,T,D) to (B,T,D); `padding` is that of the lower rate, and the last of `steps` the combiner's."""
        low = self.encoder(self.downsample(x), positions, padding, feature_mask, steps[:-1])
        repeated = low.unsqueeze(2).expand(-1, -1, self.factor, -1).flatten(1, 2)
        return self.out_combiner(x, repeated[:, : x.shape[1]], steps[-1])


class Downsample(nn.Module):
    """Groups of frames to one frame each, their mean with learned weights."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.bias = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor) -> Tensor:
        """(B,T,D) to (B,ceil(T/factor),D); the last frame stands in for those missing in the last group."""
        missing = -x.shape[1] % self.factor
        if torch.jit.is_tracing() or missing:  # a trace must serve other lengths too
            x = torch.cat([x, x[:, -1:].expand(-1, missing, -1)], dim=1)
        weights = self.bias.softmax(dim=0).to(x.dtype)
        # Not by `unflatten`, which the exporter to ONNX gives the lengths of the example.
        groups = x.reshape(x.shape[0], -1, self.factor, x.shape[2])
        return (groups * weights[:, None]).sum(dim=2)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Without the masked channels."""
    return x if mask is None else x * mask
