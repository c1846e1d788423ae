"""The picture of a training: losses, the validation metric and the learning rate over the updates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiotag.evaluation.curves import Curve
from audiotag.evaluation.metricnames import less_is_better
from audiotag.evaluation.plots import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LIGHT,
    ORANGE,
    new_figure,
    save,
    style,
    use_log_scale,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


def plot_training(curves: dict[str, Curve], path: Path, *, loss: str = "bce", metric: str = "mAP") -> None:
    """Losses, a validation metric and the learning rate over the updates.

    loss: name of the one that was trained with. metric: the one that names the best checkpoint.
    """
    figure = new_figure(13.0, 3.8)
    loss_axes, metric_axes, lr_axes = figure.subplots(1, 3)
    draw_losses(loss_axes, curves, loss)
    draw_metric(metric_axes, curves.get(f"valid/{metric}"), metric)

    style(lr_axes, "Learning rate", "update", "")
    if "train/lr" in curves:
        lr_axes.plot(curves["train/lr"].steps, curves["train/lr"].values, color=GREEN, linewidth=1.8)
        lr_axes.set_ylim(bottom=0.0)
        lr_axes.yaxis.set_major_formatter("{x:g}")
    label_lines(lr_axes, "train/lr" in curves)
    for axes in (loss_axes, metric_axes, lr_axes):
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.locator_params(axis="x", nbins=6)
    save(figure, path)


def draw_losses(axes: Axes, curves: dict[str, Curve], loss: str) -> None:
    """Loss of training and of validation, which is binary cross-entropy whatever was trained with; each with
    a y axis of its own where they are not the same."""
    style(axes, "Loss", "update", "loss")
    train, valid = curves.get("train/loss"), curves.get("valid/loss")
    lines, valid_axes = [], axes
    if loss != "bce" and train is not None and valid is not None:
        valid_axes = axes.twinx()
        style(valid_axes, "", "", "loss", grid="none")
        valid_axes.spines["right"].set(visible=True, color=LIGHT)
        for one, colour in ((axes, BLUE), (valid_axes, ORANGE)):
            one.tick_params(axis="y", which="both", labelcolor=colour)
    if train is not None:
        lines.append(draw_curve(axes, train, BLUE, f"train ({loss})"))
    if valid is not None:
        lines.append(draw_curve(valid_axes, valid, ORANGE, "valid (binary cross-entropy)"))
    groups = [[train], [valid]] if valid_axes is not axes else [[train, valid]]
    for one, group in zip((axes, valid_axes), groups, strict=False):
        values = np.concatenate([np.empty(0), *(curve.values for curve in group if curve is not None)])
        if values.size and np.min(values) > 0 and np.ptp(np.log(values)) > np.log(4):
            use_log_scale(one)
    label_lines(axes, lines)
    if valid_axes is not axes:
        axes.legend(handles=lines, frameon=False, fontsize=9)


def draw_metric(axes: Axes, curve: Curve | None, metric: str) -> None:
    """A validation metric with a circle around its best value."""
    style(axes, f"{metric} on valid", "update", metric)
    if curve is not None:
        draw_curve(axes, curve, ORANGE, "valid")
        highest = not less_is_better(metric)
        step, value = curve.best(highest)
        axes.plot(step, value, "o", markersize=9, markerfacecolor="none", markeredgecolor=INK)
        inwards = "right" if step > np.mean(curve.steps[[0, -1]]) else "left"
        axes.annotate(
            f"best {value:.4f}",
            (step, value),
            (0, -18 if highest else 12),
            textcoords="offset points",
            ha=inwards,
            color=INK,
        )
        if not (curve.values < 0).any():
            axes.set_ylim(0.0, 1.02 if highest and 0.5 < value <= 1.0 else None)
    label_lines(axes, curve is not None)


def draw_curve(axes: Axes, curve: Curve, colour: str, label: str) -> Line2D:
    """A line, with its points marked while they can be told apart; smoothed over itself when long."""
    if len(curve.steps) <= 60:
        [line] = axes.plot(
            curve.steps, curve.values, "o-", color=colour, label=label, linewidth=1.8, markersize=3.5
        )
        return line
    window = max(len(curve.values) // 50, 3)
    ends = np.pad(curve.values, (window // 2, window - 1 - window // 2), mode="edge")
    smooth = np.convolve(ends, np.full(window, 1.0 / window), mode="valid")
    axes.plot(curve.steps, curve.values, color=colour, alpha=0.25, linewidth=0.8)
    [line] = axes.plot(curve.steps, smooth, color=colour, label=label, linewidth=1.8)
    return line


def label_lines(axes: Axes, drawn: object) -> None:
    """A legend when there are several lines; a word in place of an empty plot."""
    if not drawn:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set_xticks([])
        axes.set_yticks([])
    elif len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(frameon=False, fontsize=9)
