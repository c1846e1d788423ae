"""The scalars that training wrote for TensorBoard, read back for plots and reports."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Curve:
    """One scalar over training: update numbers (K,), ascending, and values (K,), K >= 1."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> float:
        """The newest value."""
        return float(self.values[-1])

    def best(self, highest: bool = True) -> tuple[int, float]:
        """Update number and value of the highest (or lowest) finite point; the earlier one on a tie."""
        sign = 1.0 if highest else -1.0
        finite = np.where(np.isfinite(self.values), sign * self.values, -np.inf)
        at = int(np.argmax(finite))
        return int(self.steps[at]), float(self.values[at])


def read_curves(folder: Path | str) -> dict[str, Curve]:
    """All scalars in the event files of a folder, by tag; empty when there are none.

    A resumed run may have written a step twice: the newer point counts. An event file that was cut off
    by a crash is read as far as it goes.
    """
    folder = Path(folder)
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    # A third of a second to import, and only reports need it.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # 0 keeps every point
    events.Reload()
    curves = {}
    for tag in events.Tags()["scalars"]:
        points = sorted(events.Scalars(tag), key=lambda point: point.wall_time)
        newest = {point.step: point.value for point in points}
        steps = sorted(newest)
        curves[tag] = Curve(np.array(steps), np.array([newest[step] for step in steps]))
    return curves
