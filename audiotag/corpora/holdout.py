"""Choose a validation set from the training clips so that every label keeps its share in both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stratified_holdout(labels: Sequence[Sequence[int]], share: float, seed: int) -> np.ndarray:
    """Booleans (N,): True for the clips that are held out.

    Iterative stratification: labels are served from the rarest to the most frequent, since a rare label
    has the least choice; each takes its share of its clips, less what clips chosen for rarer labels bring
    along. No label loses its last training clip.

    Args:
        labels: class indices of each of the N clips.
        share: part of the clips to hold out, in [0, 1).
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    if share == 0 or len(labels) < 2:
        return held_out
    clips_of_label: dict[int, list[int]] = {}
    for clip, of_clip in enumerate(labels):
        for label in set(of_clip):
            clips_of_label.setdefault(label, []).append(clip)
    kept = {label: len(clips) for label, clips in clips_of_label.items()}
    decided = np.zeros(len(labels), dtype=bool)

    def hold_out(candidates: np.ndarray, wanted: int) -> None:
        for clip in rng.permutation(candidates):
            if wanted <= 0:
                break
            if all(kept[label] > 1 for label in set(labels[clip])):
                held_out[clip] = True
                wanted -= 1
                for label in set(labels[clip]):
                    kept[label] -= 1

    for label in sorted(clips_of_label, key=lambda label: (len(clips_of_label[label]), label)):
        clips = np.array(clips_of_label[label])
        wanted = random_round(share * len(clips), rng) - int(held_out[clips].sum())
        hold_out(clips[~decided[clips]], wanted)
        decided[clips] = True
    without_labels = np.flatnonzero(~decided)
    hold_out(without_labels, random_round(share * len(without_labels), rng))
    if not held_out.any():  # a tiny corpus: an empty validation set would be of no use
        hold_out(np.arange(len(labels)), 1)
    return held_out


def random_round(value: float, rng: np.random.Generator) -> int:
    """Up or down by chance so that the mean is kept: labels with few clips would never be held out."""
    return int(np.floor(value + rng.uniform()))
