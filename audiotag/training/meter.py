"""What the log line says of the updates since the last one: loss, speed, time spent waiting for data."""

from __future__ import annotations

import time

import torch


class Meter:
    """Sums over the updates between two log lines.

    Losses and norms stay on the device until they are read, so that training does not wait for them.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a new stretch of updates."""
        self._losses: list[torch.Tensor] = []
        self._norms: list[torch.Tensor] = []
        self._clips = 0
        self._wait_s = 0.0
        self._start = time.perf_counter()

    def add_batch(self, loss: torch.Tensor, clips: int, wait_s: float) -> None:
        """Note one batch on this process: its mean loss, its clips, the seconds waited for it."""
        self._losses.append(loss.detach())
        self._clips += clips
        self._wait_s += wait_s

    def add_norm(self, norm: torch.Tensor) -> None:
        """Note the gradient norm of one update."""
        self._norms.append(norm.detach())

    def read(self, world_size: int) -> dict[str, float]:
        """Averages of this process' updates; the speed is that of all processes together."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        values = {
            "train/loss": torch.stack(self._losses).mean().item(),
            "train/clips_per_s": world_size * self._clips / elapsed,
            "train/data_wait": self._wait_s / elapsed,
        }
        if self._norms:
            values["train/grad_norm"] = torch.stack(self._norms).mean().item()
        return values
