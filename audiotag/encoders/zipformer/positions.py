"""Relative positions: a table of what an offset between two frames is to attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

MIN_TABLE_FRAMES = 1024


def relative_positions(num_frames: int | Tensor, dim: int, device: torch.device) -> Tensor:
    """The table of offsets -(T-1) to T, (2T, dim) in float32.

    Each row holds cosines and sines of an angle that grows like the logarithm of the offset; the last column
    is 1. A row depends on its offset alone, so tables of fewer frames lie in the middle of larger ones. The
    last offset is beyond what T frames need; with it, scores are brought in place by slicing alone.
    """
    offsets = torch.arange(1 - num_frames, num_frames + 1, device=device).to(torch.float32)
    length = math.sqrt(dim)
    compressed = length * offsets.sign() * ((offsets.abs() + length).log() - math.log(length))
    angles = (compressed * (2 * math.pi / dim)).atan()
    angles = angles[:, None] * torch.arange(1, dim // 2 + 1, device=device)
    sines = torch.cat([angles[:, :-1].sin(), torch.ones_like(angles[:, :1])], dim=1)
    return torch.stack([angles.cos(), sines], dim=2).flatten(1)


class PositionTable:
    """Tables of any number of frames, cut from the largest that was needed so far.

    Args:
        dim: width of a row.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._table: Tensor | None = None

    def __call__(self, num_frames: int, device: torch.device) -> Tensor:
        """The table (2T, dim) for T frames."""
        table = self._table
        if table is None or table.device != device or len(table) < 2 * num_frames:
            # Powers of two: so their rows do not depend, not even in the last bit, on what came before.
            size = max(MIN_TABLE_FRAMES, 1 << (num_frames - 1).bit_length())
            with torch.inference_mode(False), torch.no_grad():
                table = self._table = relative_positions(size, self.dim, device)
        return middle(table, num_frames)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which make their own."""
        return {"dim": self.dim, "_table": None}


def middle(table: Tensor, num_frames: int) -> Tensor:
    """The table of fewer frames in a larger one."""
    center = table.shape[0] // 2
    return table[center - num_frames : center + num_frames]
