"""A warning about clips that are longer than what the model looks at."""

from __future__ import annotations

import logging

import numpy as np

from audiotag.frontend import FRAME_SHIFT, SAMPLING_RATE, Frontend

logger = logging.getLogger(__name__)


def warn_of_long_clips(durations: np.ndarray, split: str, frontend: Frontend, *, training: bool) -> None:
    """Log one line when clips go on behind the frames that the encoder gets.

    Args:
        durations: (N,) seconds of each clip as it is read: a crop or window counts by its own length.
        split: name of the clips.
        frontend: of the model; one without a fixed length hears all of a clip.
        training: clips are trained on, so that random stretches of them are a way out.
    """
    if frontend.target_frames is None:
        return
    frames = frontend.num_frames(np.rint(durations.astype(np.float64) * SAMPLING_RATE).astype(np.int64))
    too_long = int((frames > frontend.target_frames).sum())
    if not too_long:
        return
    seen_s = frontend.target_frames * FRAME_SHIFT / SAMPLING_RATE
    if training:
        remedy = f"train on random stretches (augment.crop.duration_s={seen_s:g})"
    else:
        remedy = f"score them in windows (evaluation.window_s={seen_s:g})"
    logger.warning(
        "%d of %d clips of %s are longer than %g s: the model sees their first %g s only (the longest has "
        "%.4g s); %s, or raise features.target_frames",
        too_long,
        len(durations),
        split,
        seen_s,
        seen_s,
        durations.max(),
        remedy,
    )
