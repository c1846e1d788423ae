"""The AST's position embedding for another grid of patches, by the rule of the published training code.

Time first, then frequency: an axis that becomes shorter is cropped from its middle, one that becomes longer
is interpolated linearly between the centres of its positions. What stands for the two summary tokens stays.

Shapes: f and t rows (frequency) and columns (time) of the grid, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

Grid = tuple[int, int]


def adapt_positions(positions: Tensor, source: Grid, target: Grid, num_summary_tokens: int) -> Tensor:
    """A position embedding (1,N,D) of one grid of patches, made to fit another one.

    Args:
        positions: of the summary tokens, then of f*t patches, those of the lowest frequency first.
        source, target: rows and columns (f, t) of the patches.
        num_summary_tokens: how many stand before the patches.
    """
    summary, patches = positions[:, :num_summary_tokens], positions[:, num_summary_tokens:]
    image = patches.unflatten(1, source)
    image = resize_axis(resize_axis(image, 2, target[1]), 1, target[0])
    return torch.cat([summary, image.flatten(1, 2)], dim=1)


def resize_axis(image: Tensor, axis: int, size: int) -> Tensor:
    """One axis of an image cropped from its middle or interpolated to `size` positions."""
    length = image.shape[axis]
    if size <= length:
        return image.narrow(axis, length // 2 - size // 2, size)
    # Half-pixel centres: position j of the result lies at (j + 0.5) * length / size - 0.5 of the source.
    place = ((torch.arange(size, dtype=torch.float64) + 0.5) * (length / size) - 0.5).clamp(min=0.0)
    lower = place.floor().long()
    upper = (lower + 1).clamp(max=length - 1)
    shape = [1] * image.dim()
    shape[axis] = size
    weight = (place - lower).to(image.dtype).view(shape)
    return torch.lerp(image.index_select(axis, lower), image.index_select(axis, upper), weight)


def describe_adaptation(source: Grid, target: Grid) -> str:
    """What `adapt_positions` does, in words."""
    steps = []
    for name, before, now in zip(("frequency", "time"), source, target, strict=True):
        if before != now:
            steps.append(f"{name} {'cropped' if now < before else 'interpolated'}")
    grids = " to ".join(f"{rows} x {columns}" for rows, columns in (source, target))
    return f"position embedding from {grids} patches ({', '.join(steps)})"
