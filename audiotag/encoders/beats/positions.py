"""Where tokens are, for BEATs: a convolution along the sequence, and a bias of attention by distance.

Shapes: B clips, N tokens, D width, H heads, K kernel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class PositionalConvolution(nn.Module):
    """A grouped convolution along the tokens, whose weight is kept as direction and size.

    Args:
        dim: D.
        kernel_size: tokens that an output sees; where even, one more before it than behind it.
        groups: of channels that see only each other.

    For each of the K places the weights of all channels together have one size, `weight_g`.
    """

    def __init__(self, dim: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        weight = torch.empty(dim, dim // groups, kernel_size)
        nn.init.normal_(weight, std=math.sqrt(4.0 / (kernel_size * dim)))
        self.weight_g = nn.Parameter(size_by_place(weight))
        self.weight_v = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B,N,D) to (B,N,D)."""
        if x.device.type == "cpu":
            # torch 2.11 gets grouped convolutions of few channels in bf16 wrong on CPUs.
            with torch.autocast("cpu", enabled=False):
                return self._convolve(x.to(self.bias.dtype))
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        weight = self.weight_v * (self.weight_g / size_by_place(self.weight_v))
        y = functional.conv1d(
            x.transpose(1, 2), weight, self.bias, padding=weight.shape[2] // 2, groups=self.groups
        )
        return y[..., : x.shape[1]].transpose(1, 2)


def size_by_place(weight: Tensor) -> Tensor:
    """The norm (1,1,K) of a kernel (D,D/groups,K) at each of its places."""
    return torch.linalg.vector_norm(weight, dim=(0, 1), keepdim=True)


class RelativeBias(nn.Module):
    """What is added to attention's scores for the distance of two tokens, one table for all layers.

    Args:
        num_buckets: rows of the table; half of them for keys behind the query.
        max_distance: distance from which on all are alike.
        num_heads: H.

    Small distances have a bucket each, larger ones share them, by their logarithm.
    """

    def __init__(self, num_buckets: int, max_distance: int, num_heads: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.weight = nn.Parameter(torch.empty(num_buckets, num_heads))
        nn.init.normal_(self.weight, std=0.02)
        # Of all offsets that differ, so that no length of clips needs another table.
        offsets = torch.arange(-max_distance, max_distance + 1)
        self.register_buffer("buckets", buckets_of(offsets, num_buckets, max_distance), persistent=False)

    def forward(self, num_tokens: int | Tensor) -> Tensor:
        """The bias (H,N,N) of queries (rows) and keys."""
        reach = self.max_distance
        offsets = torch.arange(1 - num_tokens, num_tokens, device=self.weight.device)
        values = self.weight[self.buckets[offsets.clamp(-reach, reach) + reach]].T
        if not isinstance(num_tokens, Tensor) and num_tokens == 1:
            return values[:, :, None]
        # Offset j - i stands at N-1 + j-i of each row. Where rows are cut one shorter, from N-1 on, it stands
        # in column j of row i.
        rows = values[:, None].expand(-1, num_tokens, -1).flatten(1)
        width = 2 * num_tokens - 2
        rows = rows[:, num_tokens - 1 : num_tokens - 1 + num_tokens * width]
        return rows.unflatten(1, (num_tokens, width))[..., :num_tokens]


def buckets_of(offsets: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """The bucket of each offset from query to key; offsets are whole numbers of any shape."""
    half = num_buckets // 2  # for keys up to the query, and as many for those behind it
    exact = half // 2  # distances below have a bucket each
    distance = offsets.abs()
    # In float32 step by step, since the last digit decides between two buckets.
    share = (distance.clamp(min=1).float() / exact).log() / math.log(max_distance / exact)
    shared = (exact + (share * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(offsets > 0, half, 0) + torch.where(distance < exact, distance, shared)
