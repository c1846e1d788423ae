"""Which checkpoints may go: a pure function of what there is and what validation found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audiotag.training.checkpoint import EPOCH_NAME


@dataclass(frozen=True)
class Retention:
    """What is kept.

    Args:
        last_epochs: newest epoch checkpoints; 0 keeps all.
        last_steps: newest checkpoints inside epochs.
        best: checkpoints with the best metric.
        before_best: epochs before the best one, to be averaged with it.
    """

    last_epochs: int
    last_steps: int
    best: int
    before_best: int

    def superfluous(self, epochs: Sequence[int], steps: Sequence[int], ranking: Sequence[str]) -> list[str]:
        """The names of the files that may go.

        Args:
            epochs, steps: numbers of the checkpoints that there are, ascending.
            ranking: names of validated checkpoints, the best first.
        """
        there = {*(f"epoch-{epoch}.pt" for epoch in epochs), *(f"step-{step}.pt" for step in steps)}
        kept = set([name for name in ranking if name in there][: self.best])
        if ranking and (match := EPOCH_NAME.fullmatch(ranking[0])):
            best = int(match.group(1))
            kept |= {f"epoch-{epoch}.pt" for epoch in range(best - self.before_best, best + 1)}
        old_epochs = epochs[: -self.last_epochs] if self.last_epochs else []
        names = [f"epoch-{epoch}.pt" for epoch in old_epochs]
        names += [f"step-{step}.pt" for step in steps[: -self.last_steps]]
        return [name for name in names if name not in kept]
