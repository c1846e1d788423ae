"""The curves of a run as TensorBoard shows them, with the axes that they can be drawn over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiotag.errors import ConfigError, DataError
from audiotag.eventrecords import event_files, read_records
from audiotag.training.eventhistory import Cut, parse

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

AXES = ("step", "epoch", "time", "clips")
HOUR_S = 3600.0


@dataclass(frozen=True)
class TimedCurve:
    """One scalar over training: update numbers (K,), ascending, values (K,), and hours of training (K,)."""

    steps: np.ndarray
    values: np.ndarray
    hours: np.ndarray


@dataclass(frozen=True)
class Run:
    """The curves of a run by tag, and what it is called in a legend."""

    name: str
    folder: Path
    curves: dict[str, TimedCurve]

    def axis(self, curve: TimedCurve, kind: str) -> np.ndarray:
        """Where the points of one of its curves lie: by update, epoch, hours or clips since the beginning."""
        if kind == "step":
            return curve.steps.astype(float)
        if kind == "time":
            return curve.hours
        if kind == "clips":
            clips = self._needed("train/clips")
            return np.interp(curve.steps, [0, *clips.steps], [0, *clips.values])
        epoch = self._needed("train/epoch")
        return epochs_at(curve.steps, epoch.steps, epoch.values)

    def _needed(self, tag: str) -> TimedCurve:
        if tag not in self.curves:
            raise DataError(
                f"{self.folder} has no curve {tag}, without which this axis is not known; take --x step"
            )
        return self.curves[tag]


def read_runs(words: Sequence[str]) -> list[Run]:
    """The runs that a command names, by folder (`exp/ast`) or by name and folder (`small=exp/ast`)."""
    named: list[tuple[str | None, Path]] = []
    for word in words:
        name, sign, folder = word.partition("=")
        given = bool(sign) and not Path(word).exists()
        named.append((name, Path(folder)) if given else (None, Path(word)))
    short = legend_names([folder for _, folder in named])
    names = [name or other for (name, _), other in zip(named, short, strict=True)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two runs are called {name}: give each a name of its own, as in NAME=FOLDER")
    return [read_run(folder, name) for name, (_, folder) in zip(names, named, strict=True)]


def legend_names(folders: Sequence[Path]) -> list[str]:
    """The names of folders, with as many of those above as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    parts = [path[:-1] if path[-1] == "tensorboard" else path for path in parts]
    for index, path in enumerate(parts):
        if path in parts[:index]:
            raise ConfigError(f"{folders[index]} is named twice")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            break
    return names


def read_run(folder: Path, name: str) -> Run:
    """The curves in a folder of event files, or of a run that has them below it."""
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}; name the folders of runs, such as exp/ast_tiny")
    inner = folder / "tensorboard"
    curves = read_timed_curves(inner if inner.is_dir() else folder)
    if not curves:
        raise DataError(f"{folder}: no TensorBoard curves in it or in {inner}; has the run begun (stage 5)?")
    return Run(name, folder, curves)


def read_timed_curves(folder: Path) -> dict[str, TimedCurve]:
    """All scalars by tag; the time between parts of a run, when none of it ran, does not count."""
    cut = Cut(last_step=math.inf, last_validation=math.inf)
    parts: list[tuple[float, list[tuple[str, int, float, float]]]] = []
    for path in reversed(event_files(folder)):
        began, points = math.inf, []
        records = read_records(path)
        for span in reversed(records.spans):
            event = parse(records.payload(span))
            if event is None:
                continue
            began = min(began, event.wall_time)
            if cut.keeps(event):
                for value in event.summary.value:
                    if (number := scalar_of(value)) is not None:
                        points.append((value.tag, event.step, number, event.wall_time))
        parts.append((began, points[::-1]))
    rows: dict[str, list[tuple[int, float, float]]] = {}
    before_s = 0.0
    for began, points in reversed(parts):
        for tag, step, number, time_s in points:
            rows.setdefault(tag, []).append((step, number, (before_s + time_s - began) / HOUR_S))
        before_s += max((time_s - began for *_, time_s in points), default=0.0)
    return {tag: TimedCurve(*np.array(sorted(points)).T) for tag, points in rows.items()}


def scalar_of(value: Summary.Value) -> float | None:
    """The number of a value in either of the ways in which one is stored; None for texts and the like."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return value.simple_value
    if kind == "tensor" and value.metadata.plugin_data.plugin_name == "scalars":
        from tensorboard.util.tensor_util import make_ndarray

        return float(make_ndarray(value.tensor))
    return None


def epochs_at(steps: np.ndarray, logged: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """Epochs done at some updates, with fractions, from the number of the epoch in each log line.

    The last log line of an epoch comes at its end; that of the newest may not have come yet, so that it is
    taken to be as long as the one before.
    """
    numbers = np.unique(epochs)
    ends = np.array([logged[epochs == number].max() for number in numbers])
    known_steps, known_epochs = [0.0, *ends], [0.0, *numbers]
    if len(numbers) > 1:
        length = ends[-2] - (ends[-3] if len(ends) > 2 else 0)
        known_steps[-1] = max(ends[-1], ends[-2] + length)
    return np.interp(steps, known_steps, known_epochs)
