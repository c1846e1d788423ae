"""Mixup: each chosen clip becomes a weighted mean of itself and a partner, and so do its labels.

On waveforms as in AST (means removed, partners from the whole corpus) or BEATs (partners from the batch),
or on normalised features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from audiotag.augment.choices import Choices
from audiotag.augment.clips import Clips


@dataclass(frozen=True)
class Mixup:
    """Mixes clips of a batch with partners.

    Args:
        probability: chance that a clip is mixed; for partners of the corpus the loader has drawn already.
        alpha: the weight of the clip itself is drawn from Beta(alpha, alpha).
        partner: `corpus`, loaded together with the batch, or another clip of the `batch`.
        length: of the mixture: the clip's own (`clip`), or that of the `shorter` of the two.
        remove_mean: of waveforms, before mixing and after.
    """

    probability: float
    alpha: float
    partner: str
    length: str
    remove_mean: bool

    def __call__(self, clips: Clips, choices: Choices) -> Clips:
        if self.partner == "corpus":
            rows, partners = clips.partner_rows, clips.partners
            clips = replace(clips, partner_rows=None, partners=None)
        else:
            # A permutation as in BEATs: each clip is a partner once, by chance its own.
            order = choices.draw.permutation(len(clips))
            rows = choices.rows(self.probability, len(clips))
            partners = clips.select(order[rows]) if len(rows) else None
        if partners is None:
            return clips
        shares = choices.draw.beta(self.alpha, self.alpha, len(rows))
        mixed = mix(
            clips.select(rows),
            partners,
            shares,
            shorter=self.length == "shorter",
            remove_mean=self.remove_mean and clips.are_waveforms,
        )
        return clips.with_rows(rows, mixed).trimmed()


def mix(clips: Clips, partners: Clips, shares: np.ndarray, *, shorter: bool, remove_mean: bool) -> Clips:
    """`shares` (B,) of the clips plus the rest of their partners, and of labels likewise.

    A partner is cut to its clip's length, or padded to it; `shorter` ends the mixture where the shorter of
    the two ends. Past its end the clip's own padding stays.
    """
    ended = clips.ended(np.minimum(clips.lengths, partners.lengths)) if shorter else clips
    own, other = clips, partners
    if remove_mean:
        own, other = centered(own), centered(other)
    mixture = blend(own.values, other.resized(clips.size), clips.column(shares))
    mixed = ended.with_inside(mixture)
    return replace(
        centered(mixed) if remove_mean else mixed,
        targets=blend(clips.targets, partners.targets, clips.tensor(shares)[:, None]),
    )


def blend(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """`share` of the one and the rest of the other."""
    return share * one + (1 - share) * other


def centered(clips: Clips) -> Clips:
    """Waveforms less the mean of each clip's own samples."""
    # float64, so that the number of padded zeros does not change how the mean is rounded
    total = clips.values.sum(dim=1, keepdim=True, dtype=torch.float64)
    mean = (total / clips.column(clips.lengths)).float()
    return clips.with_inside(clips.values - mean)
