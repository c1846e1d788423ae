"""What training-only machinery goes by: numbers that follow a schedule, and decisions drawn for each pass.

Before each training pass the encoder draws every decision of all its modules at once, from torch's generator
of the CPU, and hands them down as tensors. So no module has to ask a GPU, a pass that is repeated to save
memory decides as before, and compiled code sees other values but never another program.

A *unit* is a part of the encoder that is given one `Step`: the subsampling, each layer, each combiner. Inside
it modules find what is theirs at fixed slots, which alike units have in common.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Schedule:
    """A number that is a piecewise linear function of the batch count, and constant beyond its ends.

    Args:
        points: (batch count, value) in ascending order.
    """

    def __init__(self, *points: tuple[float, float]) -> None:
        self.points = points
        self._counts = [count for count, _ in points]

    def __call__(self, batch_count: float) -> float:
        """The value at a batch count."""
        behind = bisect_right(self._counts, batch_count)
        if behind == 0:
            return self.points[0][1]
        if behind == len(self.points):
            return self.points[-1][1]
        (left, low), (right, high) = self.points[behind - 1 : behind + 1]
        return low + (high - low) * (batch_count - left) / (right - left)

    def __repr__(self) -> str:
        return f"Schedule{self.points}"


Number = Schedule | float


def at(number: Number, batch_count: float) -> float:
    """The value of a number, scheduled or constant."""
    return number(batch_count) if isinstance(number, Schedule) else float(number)


class Step(NamedTuple):
    """What one unit goes by in one training pass."""

    numbers: Tensor
    """Scheduled numbers, on the model's device."""
    flags: Tensor
    """Decisions, on the model's device."""
    active: Tensor
    """The same decisions on the CPU, where reading them is free."""
    whitening: Tensor
    """Probabilities of the unit's Whiten modules, on the device; their backward passes write here."""

    def may_act(self, slot: int) -> bool:
        """Whether something that is decided at a slot has to be there at all.

        Compiled code has it always, and lets the flag decide within.
        """
        return torch.compiler.is_compiling() or bool(self.active[slot])


class Scheduled(nn.Module):
    """A module with numbers or decisions of its own in a `Step`, from the slots `number` and `chance` on."""

    number = 0
    chance = 0

    def numbers(self, batch_count: float) -> list[float]:
        """The values that it finds at its slots of `Step.numbers`."""
        return []

    def chances(self, batch_count: float) -> list[float]:
        """The probabilities with which its decisions in `Step.flags` are True."""
        return []


class AdaptiveChance(Scheduled):
    """A module that decides with a probability which its own backward pass sets, at the slot `state`."""

    state = 0
    probabilities = (0.025, 0.25)
    """Where it was not needed the last time it looked, and where it was or has not looked yet."""

    def chances(self, batch_count: float) -> list[float]:
        """A place for the probability, which no schedule knows."""
        return [0.0]


class StepSource:
    """Draws the steps of all units.

    Args:
        units: the parts of the encoder that are each given a `Step`.

    The probabilities that decide over a pass are those of the backward pass before the last one: these a GPU
    has computed by now, so that nobody waits for it, and which ones they are does not depend on its speed.
    """

    def __init__(self, units: Sequence[nn.Module]) -> None:
        self.batch_count = 0.0
        self._units = [list(unit.modules()) for unit in units]
        self._units = [[m for m in unit if isinstance(m, Scheduled)] for unit in self._units]
        self._adaptive = [[m for m in unit if isinstance(m, AdaptiveChance)] for unit in self._units]
        for unit, adaptive in zip(self._units, self._adaptive, strict=True):
            number = chance = 0
            for module in unit:
                module.number, module.chance = number, chance
                number += len(module.numbers(0.0))
                chance += len(module.chances(0.0))
            for slot, module in enumerate(adaptive):
                module.state = slot
        # Which decision of which unit each adaptive module takes, in the order of the modules.
        places = [(u, m.state, m.chance) for u, unit in enumerate(self._adaptive) for m in unit]
        self._unit, self._state, self._chance = ([place[i] for place in places] for i in range(3))
        self._table: tuple[float, Tensor, Tensor] | None = None  # batch count, numbers, chances
        self._whitening = torch.full(
            (len(units), 1 + max(self._state, default=0)), AdaptiveChance.probabilities[1]
        )
        self._in_use = self._whitening.clone()
        self._copied: torch.cuda.Event | None = None  # when `_in_use` has come from the GPU

    def draw(self, device: torch.device) -> list[Step]:
        """The steps of all units for a pass on a device."""
        numbers, chances = self._tables(device)
        in_use = self._probabilities(device)
        chances[self._unit, self._chance] = in_use[self._unit, self._state]
        active = torch.rand(chances.shape) < chances
        flags = without_waiting(active, device)
        rows = zip(numbers.unbind(), flags.unbind(), active.unbind(), self._whitening.unbind(), strict=True)
        return [Step(*row) for row in rows]

    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Numbers on the device and chances on the CPU, one row for each unit."""
        if self._table is None or self._table[0] != self.batch_count or self._table[1].device != device:
            count = self.batch_count
            numbers = [[n for module in unit for n in module.numbers(count)] for unit in self._units]
            chances = [[c for module in unit for c in module.chances(count)] for unit in self._units]
            self._table = count, without_waiting(as_rows(numbers), device), as_rows(chances)
        return self._table[1], self._table[2]

    def _probabilities(self, device: torch.device) -> Tensor:
        """Those of the backward pass before the last one, and a start on fetching the last one's."""
        if self._whitening.device != device:
            self._whitening = self._whitening.to(device)
        self._settle()
        in_use = self._in_use
        if device.type == "cuda":
            self._in_use = self._whitening.to("cpu", non_blocking=True)  # into pinned memory
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._in_use = self._whitening.to("cpu", copy=True)
        return in_use

    def _settle(self) -> None:
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on from here must know."""
        self._settle()
        own = self._unit, self._state
        return {
            "batch_count": self.batch_count,
            "whitening": self._whitening.cpu()[own],
            "whitening_in_use": self._in_use[own],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self._settle()
        self.batch_count = float(state["batch_count"])
        for name, key in (("_whitening", "whitening"), ("_in_use", "whitening_in_use")):
            values = getattr(self, name).to("cpu", copy=True)
            values[self._unit, self._state] = state[key].to(values)
            setattr(self, name, values)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, also of models without data: no events, and lists in place of tensors."""
        self._settle()
        tensors = {"_whitening": self._whitening.tolist(), "_in_use": self._in_use.tolist()}
        return {**self.__dict__, **tensors, "_table": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        tensors = {name: torch.tensor(state[name]) for name in ("_whitening", "_in_use")}
        self.__dict__.update({**state, **tensors})


def as_rows(rows: list[list[float]]) -> Tensor:
    """Lists of unequal lengths as the rows of one matrix."""
    width = max(map(len, rows))
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])


def without_waiting(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; not even a GPU that is busy is waited for."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
