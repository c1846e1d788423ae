"""A warning when the mean and deviation that a model normalises by are not those of the data.

Both count what the encoder sees: samples scaled as the preset scales them (BEATs: by 2**15), clips cut or
padded to the fixed length, rows of padding included (AST: zeros before the normalisation).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from audiotag.frontend import Frontend

logger = logging.getLogger(__name__)

# How far the numbers may be apart: the mean in deviations of the data, the deviation as a ratio.
LARGEST_SHIFT = 0.5
SMALLEST_RATIO, LARGEST_RATIO = 0.8, 1.25


def warn_of_foreign_normalization(frontend: Frontend, coverage: Mapping[str, Any], split: str) -> None:
    """Log one line when a split's measured features are far from what the front end expects of them.

    Args:
        frontend: the model's; one that does not normalise is never wrong.
        coverage: as `read_coverage` gives it; without statistics of the split there is nothing to compare.
        split: whose features the model gets.
    """
    measured = coverage.get(split, {}).get("features")
    if measured is None or frontend.mean is None or fits(frontend.mean, frontend.std, measured):
        return
    logger.warning(
        "the features of %s have mean %.4g and standard deviation %.4g (stage 4%s), but the model normalises "
        "by mean %.4g and standard deviation %.4g: train with features.normalization: corpus, or keep these "
        "numbers where pre-trained weights were made with them",
        split,
        measured["mean"],
        measured["std"],
        ", padded rows included" if frontend.target_frames else "",
        frontend.mean,
        frontend.std,
    )


def fits(mean: float, std: float, measured: Mapping[str, Any]) -> bool:
    """Whether the data are near enough to a mean and a standard deviation."""
    return (
        abs(mean - measured["mean"]) <= LARGEST_SHIFT * measured["std"]
        and SMALLEST_RATIO * measured["std"] <= std <= LARGEST_RATIO * measured["std"]
    )
