"""Cutting a sequence of clips into batches: by count, by padded duration, within buckets of like length."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

CHUNK = 1 << 15


def length_buckets(durations: np.ndarray, count: int) -> np.ndarray:
    """The bucket (N,) of each clip, from 0 for the shortest; each has about the same total duration.

    Clips of one length share a bucket. Where one length has more than a bucket's part of the total, the
    others divide what is left among them: many clips of exactly 10 s leave the short ones their buckets.

    Args:
        durations: (N,) seconds.
        count: most buckets.
    """
    values, clips = np.unique(durations, return_counts=True)
    if len(values) <= count:
        upper = values
    else:
        seconds = values.astype(np.float64) * clips
        part = bucket_part(seconds, count)
        counted = np.minimum(seconds, part)
        bucket = (np.cumsum(counted) - counted / 2) // part
        upper = values[np.append(np.diff(bucket) > 0, True)]
    return np.searchsorted(upper, durations).astype(np.min_scalar_type(len(upper) - 1))


def bucket_part(seconds: np.ndarray, count: int) -> float:
    """The size of `count` equal parts of the total, when no single length counts for more than one part."""
    heavy = np.zeros(len(seconds), dtype=bool)
    while True:
        part = seconds[~heavy].sum() / (count - heavy.sum())
        if (seconds[~heavy] <= part).all():
            return float(part)
        heavy = seconds > part


def even_bounds(groups: np.ndarray, batch_size: int) -> np.ndarray:
    """Bounds (M+1,) of as few batches as can be within each group, of even sizes.

    A small last batch, whose clips would weigh more than others, does not arise.

    Args:
        groups: (G+1,) bounds of the groups, increasing.
        batch_size: most clips of a batch.
    """
    parts = []
    for start, end in pairwise(groups.tolist()):
        count = -(-(end - start) // batch_size)
        parts.append(start + np.arange(count) * (end - start) // count)
    return np.append(np.concatenate(parts), groups[-1])


def filled_bounds(
    durations: np.ndarray, groups: np.ndarray, batch_size: int, max_duration_s: float
) -> np.ndarray:
    """Bounds (M+1,) of batches that are filled one after the other up to the limits, within each group.

    Args:
        durations: (N,) seconds in the order of the batches; none is over the limit.
        groups: (G+1,) bounds of the groups, increasing.
        batch_size: most clips of a batch.
        max_duration_s: most seconds of a batch: clips times the longest of them.
    """
    size = len(durations)
    starts = np.arange(size)
    room = np.minimum(np.repeat(groups[1:], np.diff(groups)) - starts, batch_size)
    ahead = min(batch_size, int(max_duration_s / float(durations.min())) + 1)
    next_start = starts.copy()
    # In chunks, so that all that is worked on at a time fits the processor's cache.
    for start in range(0, size, CHUNK):
        window = slice(start, start + CHUNK + ahead)
        fits = num_fitting(durations[window], room[window], max_duration_s)
        next_start[start : start + CHUNK] += fits[:CHUNK]
    # One step for each batch: a memoryview is read four times as fast as an array.
    following, bounds = memoryview(next_start), [0]
    while bounds[-1] < size:
        bounds.append(following[bounds[-1]])
    return np.array(bounds)


def num_fitting(durations: np.ndarray, room: np.ndarray, max_duration_s: float) -> np.ndarray:
    """How many clips (N,) the batch that starts at each place takes, when it takes as many as it can.

    Since clips times the longest of them only grows, this is a search by powers of two, for all places at
    once: with windows of 2^k clips, the largest first, whatever fits is added.

    Args:
        durations: (N,) seconds.
        room: (N,) most clips of the batch that starts there.
        max_duration_s: most seconds.
    """
    longest_of_windows = [durations]
    while (width := 1 << len(longest_of_windows)) <= min(len(durations), room.max()):
        last = longest_of_windows[-1]
        longest = np.maximum(last[: -width // 2], last[width // 2 :])
        if width * float(longest.min()) > max_duration_s:
            break
        longest_of_windows.append(longest)
    count = np.zeros(len(durations), dtype=np.int32)
    longest = np.zeros(len(durations), dtype=durations.dtype)
    places = np.arange(len(durations), dtype=np.int32)
    for power in reversed(range(len(longest_of_windows))):
        # Places past the end have no room: what is taken for them has no effect.
        added = longest_of_windows[power].take(places + count, mode="clip")
        more, over_all = count + np.int32(1 << power), np.maximum(longest, added)
        fits = (more <= room) & (more * over_all <= max_duration_s)
        np.copyto(count, more, where=fits)
        np.copyto(longest, over_all, where=fits)
    return count


def even_out_ends(
    bounds: np.ndarray, groups: np.ndarray, durations: np.ndarray, max_duration_s: float
) -> np.ndarray:
    """Share the clips of each group's last two batches evenly, where that keeps the limit.

    What was left for the last batch can be a single clip, which would weigh as much as a full batch.

    Args:
        bounds, groups, durations, max_duration_s: see `filled_bounds`.
    """
    evened = bounds.copy()
    for first, last in pairwise(np.searchsorted(bounds, groups).tolist()):
        if last - first < 2:
            continue
        start, end = bounds[last - 2], bounds[last]
        middle = (start + end + 1) // 2
        halves = durations[start:middle], durations[middle:end]
        if all(len(half) * float(half.max()) <= max_duration_s for half in halves):
            evened[last - 1] = middle
    return evened
