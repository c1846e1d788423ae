"""Pictures of an evaluation: AP per class, precision-recall curves; and the look of all pictures.

Every function draws on a Figure of its own and writes a PNG: no global state, no display. matplotlib is
imported when a picture is drawn, since it is slow to import and only reports need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiotag.evaluation.perclass import ClassResult
from audiotag.evaluation.ranking import precision_recall_curve
from audiotag.evaluation.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE = "#2a6ebb", "#e07b28", "#2f9e6e", "#c8443f", "#7d5ba6"
INK, GREY, LIGHT = "#22272e", "#6b7480", "#dfe3e8"
CLASS_COLOURS = (GREEN, BLUE, PURPLE, ORANGE, RED)

DPI = 130
MOST_BARS = 60
EXTREMES = 15
NAME_LENGTH = 34
CURVE_POINTS = 2000
BESIDE_BARS = "AP  (beside it: positive clips; probability of the best F1)"


def plot_per_class(classes: Sequence[ClassResult], mean_ap: float | None, path: Path) -> None:
    """AP of every class: named bars while they can be read, else the distribution and its two ends."""
    ranked = sorted((one for one in classes if one.positives), key=lambda one: (-one.ap, one.index))
    if len(ranked) <= MOST_BARS:
        figure = new_figure(8.5, 1.4 + 0.27 * max(len(ranked), 4))
        axes = figure.subplots()
        draw_bars(axes, ranked, mean_ap)
        style(axes, "Average precision per class", BESIDE_BARS, "", grid="x")
        save(figure, path)
        return

    figure = new_figure(13.0, 9.4)
    (profile, scatter), (top, bottom) = figure.subplots(2, 2, height_ratios=(1.0, 1.25))
    ap = np.array([one.ap for one in ranked])
    style(profile, f"AP of {len(ranked)} classes, best to worst", "classes", "AP")
    profile.fill_between(np.arange(1, len(ap) + 1), ap, color=BLUE, alpha=0.2, linewidth=0)
    profile.plot(np.arange(1, len(ap) + 1), ap, color=BLUE, linewidth=1.8)
    profile.set_xlim(1, len(ap))
    profile.set_ylim(0.0, 1.0)
    if mean_ap is not None:
        profile.axhline(mean_ap, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
        profile.annotate(
            f"mAP {mean_ap:.4f}", (1, mean_ap), (-6, 5), textcoords="offset points",
            xycoords=("axes fraction", "data"), ha="right", color=INK,
        )  # fmt: skip

    style(scatter, "AP and number of positive clips", "positive clips", "AP")
    scatter.plot(
        [one.positives for one in ranked],
        ap,
        "o",
        color=BLUE,
        alpha=0.45,
        markersize=4.5,
        markeredgewidth=0,
        clip_on=False,
    )
    scatter.set_xscale("log")
    scatter.xaxis.set_major_formatter("{x:,.0f}")
    scatter.set_ylim(0.0, 1.0)

    for axes, title, some in (
        (top, f"Best {EXTREMES} classes", ranked[:EXTREMES]),
        (bottom, f"Worst {EXTREMES} classes", ranked[-EXTREMES:]),
    ):
        draw_bars(axes, some, None)
        style(axes, title, BESIDE_BARS, "", grid="x")
    save(figure, path)


def plot_precision_recall(scores: Scores, classes: Sequence[ClassResult], path: Path) -> None:
    """Precision over recall of all clip-class pairs as one ranking, and of five classes of spread-out AP."""
    figure = new_figure(7.6, 6.2)
    axes = figure.subplots()
    style(axes, "Precision and recall", "recall", "precision")
    draw_f1_lines(axes)
    ranked = sorted((one for one in classes if one.positives), key=lambda one: -one.ap)
    picked = sorted(
        {round(share * (len(ranked) - 1)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)} if ranked else []
    )
    for position, colour in zip(picked, CLASS_COLOURS, strict=False):
        one = ranked[position]
        curve = known_curve(scores.logits[:, one.index], scores.labels[:, one.index])
        draw_steps(axes, *curve, colour, 1.5, short(one.name))
    if ranked:
        curve = known_curve(scores.logits.ravel(), scores.labels.ravel())
        draw_steps(axes, *curve, INK, 2.6, "all clips and classes (micro)")
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.02)
    if ranked:
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=9)
    save(figure, path)


def known_curve(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision over the pairs (M,) whose label is known."""
    known = ~np.isnan(labels)
    return precision_recall_curve(logits[known], labels[known] > 0)


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches that draws with Agg whatever the user's backend is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.03)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the PNG; without the library's version in it, equal pictures are equal files."""
    figure.savefig(path, metadata={"Software": None})


def style(axes: Axes, title: str, x_label: str, y_label: str, grid: str = "both") -> None:
    """The house's look: a light grid behind, no frame but the axes, quiet labels."""
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=10)
    axes.set_xlabel(x_label, color=GREY)
    axes.set_ylabel(y_label, color=GREY)
    if grid != "none":
        axes.grid(axis=grid, color=LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=GREY, labelcolor=INK, length=0, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LIGHT)


def use_log_scale(axes: Axes) -> None:
    """A logarithmic y axis whose ticks are plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_bars(axes: Axes, classes: Sequence[ClassResult], mean_ap: float | None) -> None:
    """Horizontal bars of AP, the first class on top, each with its value and number of positives."""
    rows = np.arange(len(classes))
    axes.barh(rows, [one.ap for one in classes], color=BLUE, height=0.72)
    axes.set_yticks(rows, [short(one.name) for one in classes])
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.set_xlim(0.0, 1.26)
    axes.set_xticks(np.linspace(0.0, 1.0, 6))
    plate = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    for row, one in zip(rows, classes, strict=True):
        text = f"{one.ap:.3f}  ({one.positives:,})"
        if one.threshold == one.threshold:
            text = f"{text[:-1]}; {one.threshold:.2f})"
        axes.text(one.ap + 0.012, row, text, va="center", fontsize=8.5, color=GREY, bbox=plate)
    if mean_ap is not None:
        axes.axvline(mean_ap, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate(
            f"mAP {mean_ap:.4f}", (mean_ap, 1.0), (0, 3), textcoords="offset points",
            xycoords=("data", "axes fraction"), ha="center", fontsize=9, color=INK,
        )  # fmt: skip


def draw_steps(
    axes: Axes, recall: np.ndarray, precision: np.ndarray, colour: str, width: float, label: str
) -> None:
    """The steps whose area is the AP, thinned where there are more points than pixels."""
    ap = np.sum(np.diff(recall, prepend=0.0) * precision)
    keep = np.unique(np.linspace(0, len(recall) - 1, CURVE_POINTS).astype(int))
    recall, precision = recall[keep], precision[keep]
    axes.plot(
        np.append(0.0, recall),
        np.append(precision[0], precision),
        drawstyle="steps-pre",
        color=colour,
        linewidth=width,
        label=f"{label}  (AP {ap:.3f})",
    )


def draw_f1_lines(axes: Axes) -> None:
    """Faint lines of equal F1."""
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.geomspace(f1 / (2 - f1), 1.0, 100)
        axes.plot(recall, f1 * recall / (2 * recall - f1), color=LIGHT, linewidth=1.0, zorder=1)
        axes.annotate(
            f"F1 {f1:.1f}", (1.0, f1 / (2 - f1)), (4, -3), textcoords="offset points", fontsize=8, color=GREY
        )


def short(name: str) -> str:
    """A class name that fits beside a plot, with the sign escaped that matplotlib reads as a formula."""
    cut = name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1].rstrip(" ,") + "…"
    return cut.replace("$", r"\$")
