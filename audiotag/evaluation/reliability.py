"""The reliability diagram: what share of pairs is positive among those of a probability."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from audiotag.evaluation.calibration import NUM_BINS
from audiotag.evaluation.plots import BLUE, GREY, INK, LIGHT, new_figure, save, style


def plot_reliability(bins: np.ndarray, error: float | None, path: Path) -> None:
    """Share of positives over mean probability in each bin, and below it how many pairs a bin has.

    bins: (3,15) of `Metrics.bins`: pairs, sum of probabilities, positives. error: the calibration error.
    """
    pairs, claimed, held = bins
    there = pairs > 0
    figure = new_figure(6.4, 6.8)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.0, 1.0))

    style(above, "Reliability of the probabilities", "", "share of positives")
    above.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle=(0, (4, 3)))
    share = held[there] / pairs[there]
    # Standard error of a share, as if pairs were drawn one by one.
    spread = np.sqrt(share * (1 - share) / pairs[there])
    above.errorbar(
        claimed[there] / pairs[there], share, yerr=1.96 * spread, fmt="o-", color=BLUE, ecolor=LIGHT,
        elinewidth=2.0, linewidth=1.8, markersize=5,
    )  # fmt: skip
    if error is not None:
        text = f"calibration error {error:.4f}\nabove the line: too cautious\nbelow it: too sure"
        above.text(0.03, 0.97, text, transform=above.transAxes, va="top", fontsize=9, color=INK)
    above.set_xlim(0.0, 1.0)
    above.set_ylim(0.0, 1.0)

    style(below, "", "probability", "clip-class pairs", grid="y")
    middles = (np.arange(NUM_BINS) + 0.5) / NUM_BINS
    below.bar(middles[there], pairs[there], width=0.9 / NUM_BINS, color=BLUE)
    if there.any():
        below.set_yscale("log")
    save(figure, path)
