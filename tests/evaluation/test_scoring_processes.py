"""Scores of several real processes, joined on the first in the order of the manifest."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from audiotag.distributed import World
from audiotag.evaluation.scores import Scores
from audiotag.evaluation.scoring import GATHERED_ROWS, ScoredShare, gather_scores

CLASSES = 3
# Number of clips, and whether a label is unknown: less than one exchange, and several.
CASES = ((7, True), (2 * GATHERED_ROWS + 11, False))


def whole(num_clips: int, unknown: bool) -> ScoredShare:
    """Scores that differ in every value."""
    rng = np.random.default_rng(num_clips)
    labels = rng.integers(0, 2, (num_clips, CLASSES)).astype(np.float32)
    if unknown:
        labels[num_clips // 2, 1] = np.nan
    logits = rng.standard_normal((num_clips, CLASSES), np.float32)
    return ScoredShare([f"c_{row}" for row in range(num_clips)], logits, labels, np.arange(num_clips))


def share_of(scores: ScoredShare, rows: np.ndarray) -> ScoredShare:
    """Some of the scores."""
    return ScoredShare(
        [scores.ids[row] for row in rows], scores.logits[rows], scores.labels[rows], scores.positions[rows]
    )


def gather(rank: int, size: int, folder: str) -> None:
    """What one of the processes does: the last one has no clips, the others uneven parts."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    for num_clips, unknown in CASES:
        scores = whole(num_clips, unknown)
        owner = np.minimum(np.random.default_rng(5).integers(0, 3, num_clips), 1)
        own = share_of(scores, np.flatnonzero(owner == rank))
        result = gather_scores(own, World(rank, rank, size, torch.device("cpu")))
        assert (result is None) == (rank > 0)
        if result is not None:
            result.save(f"{folder}/{num_clips}.npz")
    dist.destroy_process_group()


def test_the_first_process_gets_every_clip_once_in_order(tmp_path):
    mp.start_processes(gather, (3, str(tmp_path)), nprocs=3, start_method="fork")
    for num_clips, unknown in CASES:
        expected, found = whole(num_clips, unknown), Scores.load(tmp_path / f"{num_clips}.npz")
        assert found.ids == expected.ids
        np.testing.assert_array_equal(found.logits, expected.logits)
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert found.labels.dtype == expected.labels.dtype == (np.float32 if unknown else np.uint8)


def test_a_process_alone_puts_its_clips_in_order():
    scores = whole(9, unknown=True)
    turned = share_of(scores, np.arange(9)[::-1])
    world = World(0, 0, 1, torch.device("cpu"))
    found = gather_scores(turned, world)
    assert found.ids == scores.ids
    np.testing.assert_array_equal(found.logits, scores.logits)
