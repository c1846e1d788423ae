"""What the log line says of the updates since the last one: loss, gradient, speed, waiting, memory."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from audiotag.distributed import World
from audiotag.training.memory import MemoryGauge


class Meter:
    """Sums over the updates between two log lines.

    Losses and norms stay on the device until they are read, so that training does not wait for them. Their
    sums are exactly rounded: they do not depend on where a run was interrupted in between.

    Args:
        device: of this process.
        peak_flops: floating-point operations that the device can do in a second; None where that is unknown.
    """

    def __init__(self, device: torch.device | str = "cpu", peak_flops: float | None = None) -> None:
        self.peak_flops = peak_flops
        self._device = torch.device(device)
        self._memory = MemoryGauge(self._device)
        self._clips_before = 0  # of all processes, since the run began
        self.reset()

    def reset(self) -> None:
        """Begin a new stretch of updates."""
        self._losses: list[Tensor] = []
        self._parts: dict[str, list[Tensor]] = {}
        self._norms: list[Tensor] = []
        self._skipped: list[Tensor] = []
        self._clips = 0
        self._replaced = 0
        self._wait_s = 0.0
        self._elapsed_s = 0.0
        self._flops = 0.0
        self.start()

    def start(self) -> None:
        """Let the clock go on from now: what was done since the last update is no training."""
        self._mark = time.perf_counter()

    def add_batch(
        self,
        loss: Tensor,
        clips: int,
        wait_s: float,
        replaced: int,
        flops: float = 0.0,
        parts: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Note one batch of this process.

        Args:
            loss: its mean loss.
            clips: its clips.
            wait_s: seconds that training waited for it.
            replaced: clips of it that took the place of unreadable ones.
            flops: floating-point operations that the model needs for it.
            parts: what the loss is made of, by name.
        """
        self._losses.append(loss.detach())
        for name, part in (parts or {}).items():
            self._parts.setdefault(name, []).append(part.detach())
        self._clips += clips
        self._wait_s += wait_s
        self._replaced += replaced
        self._flops += flops

    def add_update(self, norm: Tensor, skipped: Tensor | bool) -> None:
        """Note one update: the norm of its gradient, and whether it was skipped because of an overflow."""
        self._norms.append(norm.detach())
        self._skipped.append(torch.as_tensor(skipped, device=norm.device))
        self._count_time()

    def read(self, world: World) -> dict[str, float]:
        """The figures of all processes by TensorBoard tag, the same on each; they must all ask for them.

        `train/clips` counts the clips since the run began; clips, replaced ones and speed are sums over the
        processes, memory is that of the process with most, the others are means.
        """
        self._count_time()
        elapsed_s = max(self._elapsed_s, 1e-9)
        own = {
            "loss": total_of(numbers(self._losses)),
            **{name: total_of(numbers(parts)) for name, parts in self._parts.items()},
            "batches": len(self._losses),
            "clips": self._clips,
            "replaced": self._replaced,
            "speed": self._clips / elapsed_s,
            "wait": self._wait_s / elapsed_s,
            "mfu": self._flops / elapsed_s / self.peak_flops if self.peak_flops else 0.0,
        }
        memory = self._memory.read()
        every = world.gather((own, memory))
        total = {key: math.fsum(figures[key] for figures, _ in every) for key in own}
        self._clips_before += int(total["clips"])
        # The same on all processes, which have added up their gradients by then.
        skipped = [bool(one) for one in numbers(self._skipped)]
        norms = [norm for norm, skip in zip(numbers(self._norms), skipped, strict=True) if not skip]
        values = {
            **{
                f"train/{name}": total[name] / total["batches"] if total["batches"] else math.nan
                for name in ("loss", *self._parts)
            },
            "train/grad_norm": mean(norms),
            "train/clips": float(self._clips_before),
            "train/clips_per_s": total["speed"],
            "train/data_wait": total["wait"] / len(every),
            "train/replaced_clips": total["replaced"],
            "train/skipped_updates": float(sum(skipped)),
            **{key: max(figures[key] for _, figures in every) for key in memory},
        }
        if total["mfu"]:
            values["train/mfu"] = total["mfu"] / len(every)
        return values

    def state_dict(self) -> dict[str, Any]:
        """What the next reading needs of the updates so far."""
        return {
            "losses": numbers(self._losses),
            "parts": {name: numbers(parts) for name, parts in self._parts.items()},
            "norms": numbers(self._norms),
            "skipped": numbers(self._skipped),
            "clips": self._clips,
            "replaced": self._replaced,
            "wait_s": self._wait_s,
            "elapsed_s": self._elapsed_s,
            "flops": self._flops,
            "clips_before": self._clips_before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after a state; the clock starts now."""
        self.reset()
        self._losses = self._tensors(state["losses"], torch.float64)
        self._parts = {
            name: self._tensors(parts, torch.float64) for name, parts in state.get("parts", {}).items()
        }
        self._norms = self._tensors(state["norms"], torch.float64)
        self._skipped = self._tensors(state["skipped"], torch.bool)
        self._clips = state["clips"]
        self._replaced = state["replaced"]
        self._wait_s = state["wait_s"]
        self._elapsed_s = state["elapsed_s"]
        self._flops = state["flops"]
        self._clips_before = state["clips_before"]

    def _tensors(self, values: list[float], dtype: torch.dtype) -> list[Tensor]:
        return list(torch.tensor(values, dtype=dtype, device=self._device))

    def _count_time(self) -> None:
        now = time.perf_counter()
        self._elapsed_s += now - self._mark
        self._mark = now


def numbers(scalars: list[Tensor]) -> list[float]:
    """The values of scalar tensors, waiting for the device once."""
    return torch.stack(scalars).double().tolist() if scalars else []


def total_of(values: list[float]) -> float:
    """Exactly rounded sum; NaN where one is not finite."""
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan


def mean(values: list[float]) -> float:
    """Exactly rounded mean; NaN of none, or where one is not finite."""
    if not values or not all(map(math.isfinite, values)):
        return math.nan
    return math.fsum(values) / len(values)
