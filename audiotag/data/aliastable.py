"""Weighted draws at a constant cost each, however many clips there are."""

from __future__ import annotations

import numpy as np


class AliasTable:
    """Walker's alias method: a clip is drawn uniformly, and kept or exchanged for its alias by chance.

    The clips' shares are scaled to a mean of 1. Light clips (share below 1) are topped up to 1 by heavy ones
    in turn. A heavy clip gives its last light clip all that is missing, and is then topped up by the next
    heavy one. Both sides are running sums, so who tops up whom is found by bisection.

    Args:
        weights: (N,) finite, none negative, not all zero.

    Attributes:
        keep: (N,) the chance that a clip is kept when it is drawn.
        alias: (N,) the clip that takes its place otherwise.
    """

    def __init__(self, weights: np.ndarray) -> None:
        # Twice scaled, so that the sum of very large weights stays finite.
        share = weights / weights.max()
        share *= len(share) / share.sum()
        # The largest counts as heavy even where rounding leaves all of them below 1.
        is_light = share < min(1.0, share.max())
        light, heavy = np.flatnonzero(is_light), np.flatnonzero(~is_light)
        missing = np.concatenate([[0.0], np.cumsum(1.0 - share[light])])
        excess = np.cumsum(share[heavy] - 1.0)
        self.keep = np.ones(len(share))
        self.alias = np.arange(len(share), dtype=np.int32)

        donor = np.searchsorted(excess, missing[:-1], side="right")
        self.keep[light] = share[light]
        self.alias[light] = heavy[np.minimum(donor, len(heavy) - 1)]

        given = np.searchsorted(missing, excess[:-1])
        in_debt = np.flatnonzero(given < len(missing))
        self.keep[heavy[in_debt]] = 1.0 + excess[in_debt] - missing[given[in_debt]]
        self.alias[heavy[in_debt]] = heavy[in_debt + 1]

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Independent draws (count,) with replacement, int64."""
        clips = rng.integers(len(self.keep), size=count)
        return np.where(rng.random(count) < self.keep[clips], clips, self.alias[clips])
