"""Long clips as windows: which there are, who scores them, and how they are read.

The first window begins with the clip, each next one `hop_s` later, and the last ends with the clip: all of it
is heard, and no window is almost empty. Nothing outside of a window is read with it, so that the length of a
clip does not matter. `windowmeans.py` makes one score of a clip's windows.

Shapes: N clips, B windows, C classes.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
import torch

from audiotag.data.crop import TOLERANCE_S, load_stretch, load_window
from audiotag.data.dataset import Batch, ClipDataset, Manifest, Storage
from audiotag.data.loader import Loader, open_workers
from audiotag.data.padding import PaddedRows
from audiotag.evaluation.windowmeans import WindowMean


@dataclass(frozen=True)
class Windowing:
    """How clips are cut into windows, and what becomes of the windows' logits.

    Args:
        window_s: length of a window; clips that are no longer are taken whole.
        hop_s: from one window to the next, at most `window_s`.
        mean: see `windowmeans.py`.
    """

    window_s: float
    hop_s: float
    mean: WindowMean

    def counts(self, durations: np.ndarray) -> np.ndarray:
        """How many windows (N,) clips of these durations (N,) in seconds have, int64."""
        durations = durations.astype(np.float64)
        # A clip that just holds its windows has no further one; its duration comes from 32 bits.
        behind_first = durations - self.window_s - np.maximum(TOLERANCE_S, 1e-7 * durations)
        return 1 + np.ceil(np.maximum(0.0, behind_first) / self.hop_s).astype(np.int64)


class WindowDataset(ClipDataset):
    """Maps rows (B,3) of `plan_windows` to a batch of these windows; one that cannot be read is an error.

    Besides what every batch has, with the clip's values for each of its windows, it holds `windows`: how many
    the clip of each row has, (B,) int64; and `window_mean`, how `WindowMerger` is to
    merge them.

    Args:
        manifest, storage, num_classes: as in `ClipDataset`.
        windowing: what a window is.
    """

    def __init__(
        self, manifest: Manifest, windowing: Windowing, *, storage: Storage, num_classes: int
    ) -> None:
        super().__init__(manifest, storage=storage, num_classes=num_classes)
        self.windowing = windowing

    def make_batch(self, windows: np.ndarray) -> Batch:
        """The batch of these windows."""
        rows = PaddedRows(len(windows))
        for position, number, count in windows.tolist():
            rows.add(self.read_window(position, number, count))
        positions = windows[:, 0]
        return {
            **self.collate(positions, rows),
            "positions": torch.from_numpy(positions.copy()),
            "windows": torch.from_numpy(windows[:, 2].copy()),
            "window_mean": self.windowing.mean,
        }

    def read_window(self, position: int, number: int, count: int) -> np.ndarray:
        """Samples (S,) or features (T,F) of window `number` of the `count` that a clip has."""
        if count == 1:
            return self.read_by(load_stretch, position, longest_s=None, chance=None)
        start_s = math.inf if number == count - 1 else number * self.windowing.hop_s
        return self.read_by(load_window, position, window_s=self.windowing.window_s, start_s=start_s)


def window_loader(
    manifest: Manifest,
    windowing: Windowing,
    *,
    batch_size: int,
    world_size: int,
    rank: int,
    storage: Storage,
    num_classes: int,
    num_workers: int,
    pin_memory: bool = False,
) -> Loader:
    """Like `make_loader`, of the windows of this process' clips; see `WindowDataset` and `plan_windows`."""
    dataset = WindowDataset(manifest, windowing, storage=storage, num_classes=num_classes)
    batches = plan_windows(windowing.counts(manifest.durations), batch_size, world_size, rank)
    return Loader(open_workers(dataset, batches, num_workers, pin_memory))


def plan_windows(counts: np.ndarray, batch_size: int, world_size: int = 1, rank: int = 0) -> list[np.ndarray]:
    """The batches of a process: rows (B,3) of a clip's position, the number of a window, how many it has.

    Groups of clips that fill a batch, or single clips that need more than one, are dealt out so that all
    processes have about as much to do. Each clip is one process' alone, its windows one after the other. The
    batches do not depend on the number of processes.

    Args:
        counts: (N,) windows of each clip.
        batch_size: most windows of a batch.
        world_size, rank: number of processes and which of them this is.
    """
    ends = np.cumsum(counts)
    bounds = [0]
    while bounds[-1] < len(counts):
        first = bounds[-1]
        full = ends[first] - counts[first] + batch_size
        bounds.append(max(first + 1, int(np.searchsorted(ends, full, side="right"))))
    batches = []
    for group in deal(np.add.reduceat(counts, bounds[:-1]), world_size)[rank]:
        clips = np.arange(bounds[group], bounds[group + 1])
        own = counts[clips]
        numbers = np.arange(own.sum()) - np.repeat(np.cumsum(own) - own, own)
        rows = np.column_stack([np.repeat(clips, own), numbers, np.repeat(own, own)])
        batches += np.split(rows, range(batch_size, len(rows), batch_size))
    return batches


def deal(loads: np.ndarray, world_size: int) -> list[list[int]]:
    """Which groups each process takes, ascending: the largest first, each to who has the least so far."""
    taken: list[list[int]] = [[] for _ in range(world_size)]
    least = [(0, rank) for rank in range(world_size)]
    for group in np.argsort(-loads, kind="stable").tolist():
        load, rank = least[0]
        taken[rank].append(group)
        heapq.heapreplace(least, (load + int(loads[group]), rank))
    return [sorted(groups) for groups in taken]
