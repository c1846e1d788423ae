"""Clipping of gradients whose norm is far above the usual one, of which the last updates give the measure.

Nothing here is waited for on a GPU but the numbers of the rare updates at which the threshold is set anew.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from audiotag.errors import TrainingError

EARLY = (10, 20, 40)  # first thresholds, before a whole period has passed, of what there is by then
QUARTILES = ("norm_min", "norm_25", "norm_median", "norm_75", "norm_max")
NOTABLE = 0.5  # a lower factor is worth a word about which parameter it came from


class MedianClipping:
    """Limits the norm of a group's gradient to a multiple of the median of the last ones.

    Args:
        scale: the multiple.
        period: updates of which the median is taken, and between two times that it is.
        like: a tensor of the dtype and on the device of the group.
    """

    def __init__(self, scale: float, period: int, like: Tensor) -> None:
        self.scale = scale
        self.period = period
        self.step = 0  # updates so far
        self.norms = torch.zeros(period, dtype=like.dtype, device=like.device)
        self.threshold: Tensor | None = None
        self.clipped = torch.zeros_like(self.norms[0])  # updates since the last threshold
        # For the log: of the last threshold, and the smallest factor since the last line.
        self.figures: dict[str, float] = {}
        self.smallest = torch.ones_like(self.norms[0])
        self.culprit = torch.full_like(self.norms[0], -1.0)
        self.share = torch.zeros_like(self.norms[0])

    def factor(self, squares: Tensor, positions: Tensor, live: Tensor) -> Tensor | None:
        """The factor on the gradients of this update; None for 1, before there is a threshold.

        Args:
            squares: (n,) what each parameter contributes to the square of the norm.
            positions: (n,) of the parameters in their group.
            live: 1.0, or 0.0 for an update that is not made.
        """
        if self.step == 0:
            return None
        total = squares.sum()
        norm, slot = total.sqrt(), self.norms[self.step % self.period]
        slot.copy_(torch.where(live > 0, norm, slot))
        if self.step % self.period == 0 or (self.step in EARLY and self.step < self.period):
            self._set_threshold(live)
        if self.threshold is None:
            return None
        factor = (self.threshold / (norm + 1e-20)).clamp(max=1.0).nan_to_num(nan=0.0)
        self.clipped += (factor < 1.0) * live
        worse = (factor < self.smallest) & (live > 0)
        largest, index = squares.max(dim=0)
        self.smallest = torch.where(worse, factor, self.smallest)
        # An index in brackets would be waited for.
        position = positions.gather(0, index[None])[0].to(self.culprit.dtype)
        self.culprit = torch.where(worse, position, self.culprit)
        self.share = torch.where(worse, largest / total, self.share)
        return factor

    def report(self) -> tuple[dict[str, float], tuple[int, float, float] | None]:
        """Figures of the last threshold; and, if an update since the last report was clipped to less than a
        half, the position of the parameter that most of the norm came from, its share of the squared norm and
        the factor. Waits for the device."""
        smallest, culprit, share = torch.stack([self.smallest, self.culprit, self.share]).tolist()
        self.smallest.fill_(1.0)
        self.culprit.fill_(-1.0)
        self.share.zero_()
        figures = {**self.figures, "smallest_factor": smallest} if self.figures else {}
        return figures, (int(culprit), share, smallest) if smallest < NOTABLE and culprit >= 0 else None

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        names = ("step", "norms", "threshold", "clipped", "figures", "smallest", "culprit", "share")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state; norms of another period are forgotten."""
        if len(state["norms"]) == self.period:
            for name, value in state.items():
                if isinstance(value, Tensor):
                    value = value.to(self.norms, copy=True)
                setattr(self, name, value)

    def _set_threshold(self, live: Tensor) -> None:
        """Take the median anew, unless this update is not made; waits for the device."""
        ordered = self.norms.sort().values
        early = self.step in EARLY and self.step % self.period != 0
        if early:
            ordered = ordered[-self.step :]
        count = len(ordered)
        chosen = ordered[[min(count - 1, count // 4 * quarter) for quarter in range(5)]]
        *quartiles, clipped, alive = torch.cat([chosen, self.clipped[None], live[None].to(chosen)]).tolist()
        if not alive:
            return
        median = quartiles[2]
        if not math.isfinite(median):
            raise TrainingError(
                f"the gradient was not finite in most of the last {count} updates (their median norm is "
                f"{median}): go on from an earlier checkpoint with a lower optimizer.lr or a longer warm-up, "
                "or with training.amp bf16 in place of fp16"
            )
        self.threshold = chosen[2] * (2.0 * self.scale if early else self.scale)
        before = [known for known in EARLY if known < min(self.step, self.period)]
        since = self.period if self.step > self.period else self.step - max(before, default=0)
        self.figures = {
            **dict(zip(QUARTILES, quartiles, strict=True)),
            "threshold": median * (2.0 * self.scale if early else self.scale),
            "percent_clipped": 100.0 * clipped / since,
        }
        self.clipped.zero_()
