"""Choose a validation set from the training clips so that every label keeps its share in both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np


def stratified_holdout(
    labels: Sequence[Sequence[int]], share: float, seed: int, *, groups: Sequence[int] | None = None
) -> np.ndarray:
    """Booleans (N,): True for the clips that are held out.

    Iterative stratification: labels are served from the rarest to the most frequent, since a rare label
    has the least choice; each takes its share of its clips, less what clips chosen for rarer labels bring
    along. No label loses its last training clip.

    Args:
        labels: class indices of each of the N clips.
        share: part of the clips to hold out, in [0, 1).
        seed: of the choice.
        groups: a number for each clip; clips of one number are held out together or not at all.
    """
    if share == 0 or len(labels) < 2:
        return np.zeros(len(labels), dtype=bool)
    if groups is None:
        group_of_clip = np.arange(len(labels))
    else:
        _, group_of_clip = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(group_of_clip)
    choice = Holdout(labels_of_groups(labels, group_of_clip, sizes), sizes, np.random.default_rng(seed))
    choice.choose(share)
    return choice.held_out[group_of_clip]


def labels_of_groups(
    labels: Sequence[Sequence[int]], group_of_clip: np.ndarray, sizes: np.ndarray
) -> list[Mapping[int, int]]:
    """How many clips have which label, for each group; groups of one clip share the mapping of like clips."""
    like: dict[tuple[int, ...], Mapping[int, int]] = {}
    of_group: list[Mapping[int, int]] = [{} if size == 1 else Counter() for size in sizes]
    for group, of_clip in zip(group_of_clip.tolist(), labels, strict=True):
        distinct = tuple(sorted(set(of_clip)))
        if sizes[group] == 1:
            of_group[group] = like.setdefault(distinct, dict.fromkeys(distinct, 1))
        else:
            of_group[group].update(distinct)
    return of_group


class Holdout:
    """The choice in the making, over groups of clips: mostly of one clip each."""

    def __init__(self, labels: list[Mapping[int, int]], sizes: np.ndarray, rng: np.random.Generator) -> None:
        self.held_out = np.zeros(len(labels), dtype=bool)
        self._labels = labels
        self._sizes = sizes
        self._rng = rng
        self._kept: dict[int, int] = {}

    def choose(self, share: float) -> None:
        """Hold out the share of each label, and of the clips without any."""
        groups_of_label: dict[int, list[int]] = {}
        counts_of_label: dict[int, list[int]] = {}
        for group, of_group in enumerate(self._labels):
            for label, count in of_group.items():
                groups_of_label.setdefault(label, []).append(group)
                counts_of_label.setdefault(label, []).append(count)
        num_clips = {label: sum(counts) for label, counts in counts_of_label.items()}
        self._kept = dict(num_clips)
        decided = np.zeros(len(self._labels), dtype=bool)
        for label in sorted(groups_of_label, key=lambda label: (num_clips[label], label)):
            groups, counts = np.array(groups_of_label[label]), np.array(counts_of_label[label])
            wanted = self._round(share * num_clips[label]) - int(counts[self.held_out[groups]].sum())
            self._take(groups[~decided[groups]], counts[~decided[groups]], wanted)
            decided[groups] = True
        without_labels = np.flatnonzero(~decided)
        sizes = self._sizes[without_labels]
        self._take(without_labels, sizes, self._round(share * sizes.sum()))
        if not self.held_out.any():  # a tiny corpus: an empty validation set would be of no use
            self._take_smallest()

    def _take(self, groups: np.ndarray, counts: np.ndarray, wanted: int) -> None:
        """Hold out groups by chance until `wanted` of the counts are reached."""
        for position in self._rng.permutation(len(groups)):
            if wanted <= 0:
                break
            count = int(counts[position])
            # A group of more clips than are wanted is taken in proportion, so that the mean is kept.
            if count > wanted and self._rng.uniform() >= wanted / count:
                continue
            if self._hold_out(int(groups[position])):
                wanted -= count

    def _take_smallest(self) -> None:
        order = self._rng.permutation(len(self._labels))
        for group in order[np.argsort(self._sizes[order], kind="stable")]:
            if self._hold_out(int(group)):
                return

    def _hold_out(self, group: int) -> bool:
        """Hold out a group unless it has a label's last training clips."""
        of_group = self._labels[group]
        if any(self._kept[label] <= count for label, count in of_group.items()):
            return False
        self.held_out[group] = True
        for label, count in of_group.items():
            self._kept[label] -= count
        return True

    def _round(self, value: float) -> int:
        """Up or down by chance so that the mean is kept: labels with few clips would never be held out."""
        return int(np.floor(value + self._rng.uniform()))
