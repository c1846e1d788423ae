"""Random choices, each a function of a key: who asks does not matter, nor when, nor what else is drawn."""

from __future__ import annotations

import zlib

import numpy as np
import torch


class Choices:
    """The random choices of one augmentation for one batch.

    Numbers by the clip are drawn on the CPU by `draw`, a NumPy generator, so that every device makes the
    same choices without being waited for; noise by the sample comes from `noise_generator`, on the device.

    Args:
        key: numbers that name the batch, such as (seed, epoch, batch name).
        name: of the augmentation; switching one on leaves the choices of the others as they are.
    """

    def __init__(self, key: tuple[int, ...], name: str) -> None:
        self.seeds = np.random.SeedSequence((*key, zlib.crc32(name.encode())))
        self.draw = np.random.default_rng(self.seeds)

    def rows(self, probability: float, count: int) -> np.ndarray:
        """Those of `count` clips that are chosen, each with this probability, in order."""
        return np.flatnonzero(self.draw.random(count) < probability)

    def noise_generator(self, device: torch.device) -> torch.Generator:
        """A generator on the device; its stream depends on the kind of device."""
        seed = int(self.seeds.generate_state(1, np.uint64)[0] >> 1)
        return torch.Generator(device).manual_seed(seed)
