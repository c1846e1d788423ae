"""Tell clips that hold the same audio, by hashes of their decoded samples.

The same sound is found in any lossless format and under any name; one that was encoded anew with losses, or
that was shifted, is another sound. Silent clips are all alike without being copies: they are not compared.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np

from audiotag.corpora.manifests import Clip, SplitReport

# Neighbouring parts of a recording may share so much, by rounding.
OVERLAP_TOLERANCE_S = 0.01
# Where a clip is in two splits, it stays in the earlier one.
SPLIT_ORDER = ("eval", "valid", "train")


def skip_leaks(reports: dict[str, SplitReport]) -> None:
    """Take clips out of train whose audio is also in eval or valid, and out of valid what is in eval."""
    for report, reason in leak_tests(reports):
        report.sift(reason)


def count_leaks(reports: dict[str, SplitReport]) -> dict[str, int]:
    """How many clips of each split `skip_leaks` would take out; splits without any are left out."""
    leaks = {split: set() for split in SPLIT_ORDER}
    for report, reason in leak_tests(reports):
        leaks[report.split].update(clip.id for clip in report.clips if reason(clip))
    return {split: len(ids) for split, ids in leaks.items() if ids}


def leak_tests(
    reports: dict[str, SplitReport],
) -> Iterator[tuple[SplitReport, Callable[[Clip], str | None]]]:
    """Each split, for each other that it must not share audio with, and what tells why a clip is a leak."""
    guarded: list[tuple[str, SoundIndex]] = []
    for split in SPLIT_ORDER:
        if split not in reports:
            continue
        for other, sounds in guarded:

            def reason(clip: Clip, other: str = other, sounds: SoundIndex = sounds) -> str | None:
                twin = sounds.find(clip)
                return f"leak: same audio as {other} clip {twin}" if twin is not None else None

            yield reports[split], reason
        if split != SPLIT_ORDER[-1]:
            # Behind the yield: of what has been taken out nothing can leak.
            guarded.append((split, SoundIndex(reports[split].clips)))


def skip_duplicates(report: SplitReport) -> None:
    """Take clips out of a split that hold the same audio as an earlier one."""
    first_with: dict[str, Clip] = {}

    def reason(clip: Clip) -> str | None:
        if clip.content.is_silent:
            return None
        first = first_with.setdefault(clip.content.sound, clip)
        if first is clip:
            return None
        other_labels = "" if set(first.labels) == set(clip.labels) else ", which has other labels"
        return f"duplicate: same audio as {first.id}{other_labels}"

    report.sift(reason)


class SoundIndex:
    """The audio of some clips, to look others up in.

    A clip is the same as one with the same samples, and as one that is an overlapping part of the same
    recording.
    """

    def __init__(self, clips: Iterable[Clip]) -> None:
        self._id_of_sound: dict[str, str] = {}
        parts: dict[str, list[tuple[float, float, str]]] = {}
        for clip in clips:
            if not clip.content.is_silent:
                self._id_of_sound.setdefault(clip.content.sound, clip.id)
            if not clip.probe.is_silent:
                end_s = clip.start_s + clip.duration_s
                parts.setdefault(clip.probe.sound, []).append((clip.start_s, end_s, clip.id))
        self._parts_of_file = {sound: Parts(of_file) for sound, of_file in parts.items()}

    def find(self, clip: Clip) -> str | None:
        """The id of a clip with the same audio, if there is one."""
        if clip.content.is_silent:
            return None
        twin = self._id_of_sound.get(clip.content.sound)
        if twin is None and clip.probe.sound in self._parts_of_file:
            end_s = clip.start_s + clip.duration_s
            twin = self._parts_of_file[clip.probe.sound].find_overlap(clip.start_s, end_s)
        return twin


class Parts:
    """Parts of one recording, to be searched for overlaps in logarithmic time."""

    def __init__(self, parts: list[tuple[float, float, str]]) -> None:
        ordered = sorted(parts)
        self._starts = [start for start, _, _ in ordered]
        # The part that reaches furthest among those that start no later.
        self._furthest = list(accumulate(ordered, lambda a, b: max(a, b, key=lambda part: part[1])))

    def find_overlap(self, start_s: float, end_s: float) -> str | None:
        """The id of a part that shares more than a rounding error with this one."""
        position = bisect_left(self._starts, end_s - OVERLAP_TOLERANCE_S)
        if position == 0:
            return None
        _, furthest_s, clip_id = self._furthest[position - 1]
        return clip_id if furthest_s - start_s > OVERLAP_TOLERANCE_S else None


def recordings_of(clips: Sequence[Clip]) -> np.ndarray:
    """A number for each clip (N,), the same for those that hold the same audio or come from one recording, by
    their files or by what the corpus says (`group`)."""
    root = list(range(len(clips)))
    first_with: dict[str, int] = {}

    def root_of(position: int) -> int:
        while root[position] != position:
            root[position] = root[root[position]]
            position = root[position]
        return position

    for position, clip in enumerate(clips):
        traits = [probe.sound for probe in (clip.probe, clip.content) if not probe.is_silent]
        if clip.group:
            traits.append(f"group {clip.group}")
        for trait in traits:
            first = root_of(first_with.setdefault(trait, position))
            root[root_of(position)] = first
    return np.array([root_of(position) for position in range(len(clips))], dtype=np.int64)
