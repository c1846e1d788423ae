"""A ranking measured for many resamplings at once, without being sorted again.

How many draws lie between one positive's score and the next is a sum of the clips' weights: for all
resamplings together a sparse matrix of ones times the matrix of weights. Steps are walked from the highest
score down, a few hundred at a time, so that what is computed of them stays in the cache.

Legend: M pairs of a score and a clip, N clips, R resamplings, P distinct scores of positives, descending.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from audiotag.evaluation.ranking import best_f1, find_steps

STEPS_AT_ONCE = 512
EXACT_UP_TO = 15_000_000  # sums of so many draws are exact in float32 (up to 2**24)


class Measured(NamedTuple):
    """AP, AUC and best F1 (its threshold chosen anew each time) of every resampling: (R,) each."""

    ap: np.ndarray
    auc: np.ndarray
    best_f1: np.ndarray


class Chunk(NamedTuple):
    """Some steps of a ranking in a row: how many, which of them share their score with a negative, and the
    matrix that sums weights: of all pairs of each step and above the next, of its positives, of its ties."""

    length: int
    ties: np.ndarray
    sums: csr_matrix


class WeightedRanking:
    """The order of some pairs' scores, of which each belongs to a clip.

    scores: (M,); positive: (M,) bool; clips: (M,) row of each pair's clip, of `num_clips`.
    """

    def __init__(self, scores: np.ndarray, positive: np.ndarray, clips: np.ndarray, num_clips: int) -> None:
        order = np.argsort(scores)
        _, found, above, tied, not_below = (
            part[::-1] for part in find_steps(scores[order], scores[positive])
        )
        order = order[::-1]
        members, holders = clips[order], clips[order[positive[order]]]
        dtype = np.float32 if len(scores) < EXACT_UP_TO else np.float64
        self.chunks = []
        for start in range(0, len(found), STEPS_AT_ONCE):
            part = slice(start, start + STEPS_AT_ONCE)
            ties = np.flatnonzero(tied[part] > found[part])
            pieces = [
                *split(members, not_below[part], not_below[start - 1] if start else 0),
                *split(holders, above[part], above[start - 1] if start else 0),
                *(members[not_below[at] - tied[at] : not_below[at]] for at in start + ties),
            ]
            self.chunks.append(Chunk(len(found[part]), ties, summing_matrix(pieces, num_clips, dtype)))

    def measure(self, weights: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> Measured:
        """AP, AUC and best F1 for weights (N,R) and the positives and negatives that they add up to, (R,)."""
        ap, area, f1 = np.zeros((3, weights.shape[1]))
        not_below = above = np.zeros(weights.shape[1], np.float32)
        for length, ties, matrix in self.chunks:
            sums = matrix @ weights
            all_here, found, tied_here = np.split(sums, [length, 2 * length])
            not_below = running(all_here, not_below)
            above = running(found, above)
            ap += np.sum(found * (above / np.maximum(not_below, 1)), axis=0)
            # Negatives below each positive, and half of those at its score.
            lower = negatives.astype(found.dtype) - (not_below - above)
            lower[ties] += 0.5 * (tied_here - found[ties])
            area += np.sum(found * lower, axis=0)
            f1 = np.maximum(f1, best_f1(above, not_below, positives.astype(found.dtype)).max(axis=0))
            not_below, above = not_below[-1], above[-1]
        return Measured(
            ratio(ap, positives), ratio(area, positives * negatives), np.where(positives > 0, f1, np.nan)
        )


def split(members: np.ndarray, ends: np.ndarray, start: int) -> list[np.ndarray]:
    """The members up to each end, from the end before it."""
    return np.split(members[start : ends[-1]], ends[:-1] - start)


def running(counts: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Running sums down the rows, from `before` on."""
    counts = counts.copy()
    counts[0] += before
    return np.cumsum(counts, axis=0)


def summing_matrix(pieces: list[np.ndarray], num_clips: int, dtype: type) -> csr_matrix:
    """A sparse matrix whose row i adds up the weights of the clips in piece i."""
    bounds = np.cumsum([0, *map(len, pieces)])
    members = np.concatenate(pieces).astype(np.int32)
    return csr_matrix((np.ones(len(members), dtype), members, bounds), shape=(len(pieces), num_clips))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part over whole; NaN where that is nothing."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
