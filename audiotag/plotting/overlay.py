"""Curves of several runs over each other: a picture with a plot for each tag, and a table of the points."""

from __future__ import annotations

import csv
import difflib
import fnmatch
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiotag.atomic import atomic_write
from audiotag.errors import ConfigError
from audiotag.evaluation.plots import BLUE, GREEN, ORANGE, PURPLE, RED, new_figure, style, use_log_scale
from audiotag.plotting.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

DEFAULT_TAGS = ("train/loss", "valid/loss", "valid/mAP", "train/lr")
AXIS_LABELS = {"step": "update", "epoch": "epoch", "time": "hours of training", "clips": "clips"}
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, "#8c6d3f", "#d16ba5", "#3aa6b9")
LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
SUFFIXES = (".png", ".svg", ".pdf")
MOST_COLUMNS = 3
MARKED_POINTS = 60
NEAREST = 5


def choose_tags(runs: Sequence[Run], wanted: Sequence[str] | None) -> list[str]:
    """The tags that are drawn, in the order asked for; `*` stands for anything.

    A tag that no run has is an error that names the nearest ones; one that some lack is drawn of the others.
    """
    known = sorted({tag for run in runs for tag in run.curves})
    chosen: list[str] = []
    if wanted is None:
        chosen = [tag for tag in DEFAULT_TAGS if tag in known] or known[: len(DEFAULT_TAGS)]
    for pattern in wanted or ():
        matches = [pattern] if pattern in known else fnmatch.filter(known, pattern)
        if not matches:
            # Of a long list, what is alike; else some, to show what there is.
            nearest = difflib.get_close_matches(pattern, known, NEAREST, 0.4) or known[:NEAREST]
            raise ConfigError(f"no run has a curve {pattern}; the nearest are {', '.join(nearest)}")
        chosen += [tag for tag in matches if tag not in chosen]
    for tag in chosen:
        if without := [run.name for run in runs if tag not in run.curves]:
            logger.warning("no curve %s in %s", tag, ", ".join(without))
    return chosen


def plot_runs(
    runs: Sequence[Run],
    tags: Sequence[str],
    path: Path,
    *,
    axis: str = "step",
    smooth: float = 0.0,
    log_scale: bool = False,
) -> None:
    """Draw the curves of each tag over each other.

    path: a PNG, SVG or PDF, by its ending. axis: what they are drawn over, one of `AXES`. smooth: how much of
        the mean so far each point keeps, from 0, as in TensorBoard; what was measured stays visible behind.
    """
    columns = min(len(tags), MOST_COLUMNS)
    rows = -(-len(tags) // columns)
    figure = new_figure(4.6 * columns + 0.6, 3.4 * rows + 0.25 * len(runs) + 0.2)
    plots = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in plots[len(tags) :]:
        axes.set_axis_off()
    lines = {}
    for axes, tag in zip(plots, tags, strict=False):
        style(axes, escape(tag), AXIS_LABELS[axis], "")
        for index, run in enumerate(runs):
            if tag in run.curves:
                lines[run.name] = draw(axes, run, tag, index, axis, smooth)
        if log_scale and any((run.curves[tag].values > 0).any() for run in runs if tag in run.curves):
            use_log_scale(axes)
        if axis in ("step", "clips"):
            axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.locator_params(axis="x", nbins=6)
    names = [escape(name) for name in lines]
    figure.legend(lines.values(), names, loc="outside lower left", frameon=False, fontsize=9)
    from matplotlib import rc_context

    # Without the date, the library's version or random names in it, equal pictures are equal files.
    with atomic_write(path, "wb") as file, rc_context({"svg.hashsalt": "audiotag"}):
        keys = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}
        figure.savefig(file, format=path.suffix[1:], metadata={keys[path.suffix]: None})


def draw(axes: Axes, run: Run, tag: str, index: int, axis: str, smooth: float) -> object:
    """One curve; its points are marked while they can be told apart."""
    curve = run.curves[tag]
    x = run.axis(curve, axis)
    colour = COLOURS[index % len(COLOURS)]
    line = LINES[index // len(COLOURS) % len(LINES)]
    marker = "o" if len(x) <= MARKED_POINTS else None
    if smooth:
        axes.plot(x, curve.values, color=colour, alpha=0.25, linewidth=0.8)
    shown = smoothed(curve.values, smooth)
    (drawn,) = axes.plot(
        x, shown, color=colour, linestyle=line, marker=marker, markersize=3, linewidth=1.6
    )  # fmt: skip
    return drawn


def smoothed(values: np.ndarray, keep: float) -> np.ndarray:
    """Exponential mean over the points so far, without the pull towards 0 at the beginning.

    Points that are not finite stay so, and the mean goes on behind them as if they were not there.
    """
    if keep == 0.0:
        return values
    result = np.array(values, dtype=float)
    total = weight = 0.0
    for index in np.flatnonzero(np.isfinite(result)):
        total = keep * total + (1.0 - keep) * result[index]
        weight = keep * weight + (1.0 - keep)
        result[index] = total / weight
    return result


def write_csv(runs: Sequence[Run], tags: Sequence[str], path: Path) -> None:
    """All points of the curves as they were measured, one a line."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run", "tag", "step", "hours", "value"])
        for tag in tags:
            for run in runs:
                if (curve := run.curves.get(tag)) is not None:
                    for step, value, hours in zip(curve.steps, curve.values, curve.hours, strict=True):
                        # TensorBoard keeps numbers in 32 bits: more digits would be made up.
                        writer.writerow([run.name, tag, int(step), f"{hours:.5f}", str(np.float32(value))])


def escape(text: str) -> str:
    """A text with the sign escaped that matplotlib reads as a formula."""
    return text.replace("$", r"\$")
