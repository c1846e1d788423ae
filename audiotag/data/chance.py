"""Random numbers that belong to a place in a batch."""

from __future__ import annotations

from functools import cached_property

import numpy as np


class Chance:
    """The random numbers of a key; made ready when they are first asked for, since that costs 30 us.

    Args:
        key: whole numbers from 0 on.
    """

    def __init__(self, *key: int) -> None:
        self.key = key

    @cached_property
    def rng(self) -> np.random.Generator:
        """The generator, the same one each time."""
        return np.random.default_rng(np.random.SeedSequence(self.key))
