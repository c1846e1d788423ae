"""Where a run is, and what follows from it: groups of batches, log lines, seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Position:
    """How far a run is.

    Args:
        epoch: epochs finished.
        batch: base batches of the next epoch that are done, over all processes; 0 at an epoch's end.
        step: updates done.
        validated_step: update after which validation was last; None before the first.
        trained_ms: milliseconds of audio trained on over all processes, padding included.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    validated_step: int | None = None
    trained_ms: int = 0


def group_sizes(batches: int, accumulate: int) -> list[int]:
    """How many batches each update of an epoch takes; the last one takes what is left."""
    full, rest = divmod(batches, accumulate)
    return [accumulate] * full + ([rest] if rest else [])


def stretch_ends(updates: int, every: int) -> set[int]:
    """The updates of an epoch after which a log line comes: even stretches of about `every` updates."""
    count = max(1, round(updates / every))
    return {updates * (number + 1) // count for number in range(count)}


def derive_seed(*parts: int) -> int:
    """A 63-bit seed from numbers such as (seed, epoch, base batch)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
