"""What was heard when in a file: a table with a row for each window, and a picture of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from audiotag.atomic import atomic_write
from audiotag.evaluation.plots import INK, LIGHT, NAME_LENGTH, new_figure, style
from audiotag.evaluation.thresholds import probability
from audiotag.labels import Label, LabelTable
from audiotag.prediction.predictor import Prediction

DEFAULT_CLASSES = 10
ROW_HEIGHT = 0.34  # inches of the picture for each class
TICKS = 10
TICK_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600)


class TimelineFolder:
    """Writes two files for each prediction, `<name>.csv` and `<name>.png`.

    Names keep the sub-folders and the extensions of the audio files; where two inputs would share one, the
    later gets `-2`, `-3` and so on.

    Args:
        folder: made if absent.
        labels: the classes.
        num_classes: how many of them are shown.
    """

    def __init__(self, folder: Path, labels: LabelTable, num_classes: int = DEFAULT_CLASSES) -> None:
        self.folder, self.labels, self.num_classes = folder, labels, num_classes
        self._taken: set[str] = set()

    def write(self, prediction: Prediction) -> None:
        """Write the timeline of a file."""
        name, count = prediction.input.name, 1
        while name in self._taken:
            count += 1
            name = f"{prediction.input.name}-{count}"
        self._taken.add(name)
        classes = loudest_classes(prediction.window_logits, self.labels, self.num_classes)
        columns = prediction.window_logits[:, [label.index for label in classes]].astype(np.float64)
        shown = np.vectorize(probability, otypes=[float])(columns)
        with atomic_write(self.folder / f"{name}.csv") as file:
            file.write(timeline_csv(prediction.spans, shown, classes))
        with atomic_write(self.folder / f"{name}.png", "wb") as file:
            file.write(draw_timeline(prediction, shown, classes))


def loudest_classes(logits: np.ndarray, labels: LabelTable, count: int) -> list[Label]:
    """The classes with the highest score in any window of logits (W,C), the highest first."""
    order = np.argsort(-logits.max(axis=0), kind="stable")[:count]
    return [labels[index] for index in order.tolist()]


def timeline_csv(spans: np.ndarray, probabilities: np.ndarray, classes: Sequence[Label]) -> str:
    """Rows of start_s, end_s and a probability for each class, whose column is called `name (MID)`."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["start_s", "end_s", *(f"{label.name} ({label.mid})" for label in classes)])
    for (start_s, end_s), row in zip(spans, probabilities, strict=True):
        rows.writerow([f"{start_s:.3f}", f"{end_s:.3f}", *(f"{value:.6g}" for value in row)])
    return text.getvalue()


def draw_timeline(prediction: Prediction, probabilities: np.ndarray, classes: Sequence[Label]) -> bytes:
    """A PNG with a row of colours for each class over the time of the file."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    figure = new_figure(11.0, 1.5 + ROW_HEIGHT * len(classes))
    axes = figure.subplots()
    style(axes, Path(prediction.input.name).name.replace("$", r"\$"), "time", "", grid="x")
    mesh = axes.pcolormesh(
        boundaries(prediction.spans),
        np.arange(len(classes) + 1),
        probabilities.T,
        cmap="magma_r",
        vmin=0.0,
        vmax=1.0,
    )
    axes.hlines(np.arange(1, len(classes)), 0.0, prediction.duration_s, color="white", linewidth=1.5)
    axes.set_ylim(len(classes), 0)  # the first class on top
    axes.set_xlim(0.0, prediction.duration_s)
    names = [short(label.name).replace("$", r"\$") for label in classes]
    axes.set_yticks(np.arange(len(classes)) + 0.5, names)
    axes.xaxis.set_major_locator(MultipleLocator(tick_step_s(prediction.duration_s)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds, prediction.duration_s)))
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=30)
    bar.set_label("probability", color=INK)
    bar.outline.set_edgecolor(LIGHT)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def boundaries(spans: np.ndarray) -> np.ndarray:
    """The W + 1 times between which each of W windows (W,2) is drawn: where windows overlap, each moment
    belongs to the window whose middle is nearest."""
    middles = spans.mean(axis=1)
    return np.concatenate([[spans[0, 0]], (middles[1:] + middles[:-1]) / 2, [spans[-1, 1]]])


def tick_step_s(duration_s: float) -> float:
    """Seconds between ticks: a round time, of which the whole has few."""
    fitting = (step for step in TICK_STEPS_S if duration_s <= TICKS * step)
    return next(fitting, 86400.0 * -(-duration_s // (86400.0 * TICKS)))


def clock(seconds: float, duration_s: float) -> str:
    """A time as people read it: `2.5 s`, `12:30` or `1:02:30`, by the length of the whole."""
    if duration_s < 120:
        return f"{seconds:g} s"
    whole = round(seconds)
    minutes, rest = f"{whole // 60 % 60:02d}", f"{whole % 60:02d}"
    return f"{whole // 3600}:{minutes}:{rest}" if duration_s >= 3600 else f"{int(minutes)}:{rest}"


def short(name: str) -> str:
    """A name that leaves room for the picture."""
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 3].rstrip() + "..."
