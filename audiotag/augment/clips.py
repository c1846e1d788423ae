"""A batch of clips on its way through the augmentations, and how they cut and rearrange it.

Shapes: B clips, S samples, T frames, F mel bins, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audiotag.frontend import FRAME_LENGTH, FRAME_SHIFT, SAMPLING_RATE, Frontend, sequence_mask


@dataclass(frozen=True)
class Clips:
    """Waveforms, stored features or finished features of a batch. Nothing is changed in place.

    The lengths live on the host: random places inside clips are drawn there without waiting for the device.

    Args:
        values: (B,S) or (B,T,F), float32, on the device; `padding` past each clip's end.
        lengths: (B,) int64 in samples or frames, on the host.
        targets: (B,C) float32, on the device.
        frontend: what makes features of them.
        padding: value past a clip's end.
        fixed_size: the model takes one size only, and padding like any other input.
        partner_rows: (K,) rows of the batch that have a clip in `partners`.
        partners: (K,) clips of the corpus to be mixed with those; None for no such rows.
    """

    values: Tensor
    lengths: np.ndarray
    targets: Tensor
    frontend: Frontend
    padding: float = 0.0
    fixed_size: bool = False
    partner_rows: np.ndarray | None = None
    partners: Clips | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def size(self) -> int:
        """Samples or frames of the padded batch."""
        return self.values.shape[1]

    @property
    def extents(self) -> np.ndarray:
        """(B,) samples or frames that the model takes for each clip: its own, or the fixed size."""
        return np.full_like(self.lengths, self.size) if self.fixed_size else self.lengths

    @property
    def are_waveforms(self) -> bool:
        """Whether the values are samples; otherwise they are features."""
        return self.values.ndim == 2

    @property
    def shortest_allowed(self) -> int:
        """Samples or frames that a clip must have at least."""
        return FRAME_LENGTH if self.are_waveforms else 1

    def positions(self, seconds: float) -> int:
        """Samples or frames in a stretch of time."""
        return round(seconds * SAMPLING_RATE / (1 if self.are_waveforms else FRAME_SHIFT))

    def tensor(self, numbers: np.ndarray) -> Tensor:
        """Numbers of the host on the device; floats in float32."""
        if numbers.dtype == np.float64:
            numbers = numbers.astype(np.float32)
        return torch.from_numpy(numbers).to(self.values.device, non_blocking=True)

    def column(self, numbers: np.ndarray) -> Tensor:
        """Numbers (B,) of the host as a column on the device, for products with all values of a clip."""
        return self.tensor(numbers).view(-1, *[1] * (self.values.ndim - 1))

    def select(self, rows: np.ndarray) -> Clips:
        """Some of the clips, in any order, without partners."""
        index = self.tensor(rows)
        return replace(
            self,
            values=self.values.index_select(0, index),
            lengths=self.lengths[rows],
            targets=self.targets.index_select(0, index),
            partner_rows=None,
            partners=None,
        )

    def with_rows(self, rows: np.ndarray, clips: Clips) -> Clips:
        """The batch with other clips, of the same padded size, in some of its rows."""
        index, lengths = self.tensor(rows), self.lengths.copy()
        lengths[rows] = clips.lengths
        return replace(
            self,
            values=self.values.index_copy(0, index, clips.values),
            lengths=lengths,
            targets=self.targets.index_copy(0, index, clips.targets),
        )

    def inside(self, lengths: np.ndarray) -> Tensor:
        """Booleans (B,size[,1]): True before these lengths."""
        mask = sequence_mask(self.tensor(lengths), self.size)
        return mask if self.are_waveforms else mask[:, :, None]

    def with_inside(self, values: Tensor) -> Clips:
        """The clips with other values before their ends and the same ones past them."""
        return replace(self, values=torch.where(self.inside(self.lengths), values, self.values))

    def ended(self, lengths: np.ndarray) -> Clips:
        """The clips ended at these lengths, padding behind; the batch keeps its size."""
        values = self.values.where(self.inside(lengths), self.padding)
        return replace(self, values=values, lengths=lengths)

    def trimmed(self) -> Clips:
        """The batch cut to its longest clip, unless its size is fixed."""
        return self if self.fixed_size else replace(self, values=self.values[:, : int(self.lengths.max())])

    def resized(self, size: int) -> Tensor:
        """The values of the batch cut or padded to another size, (B,size[,F])."""
        missing = size - self.size
        if missing <= 0:
            return self.values[:, :size]
        edges = (0, missing) if self.are_waveforms else (0, 0, 0, missing)
        return nn.functional.pad(self.values, edges, value=self.padding)

    def rearranged(self, index: Tensor) -> Tensor:
        """Values by their places in the clip: (B,N) places of each clip give (B,N[,F])."""
        if self.are_waveforms:
            return self.values.gather(1, index)
        return self.values[torch.arange(len(self), device=index.device)[:, None], index]


def read_batch(batch: dict[str, Any], frontend: Frontend, device: torch.device) -> Clips:
    """The clips of a loader's batch, and the partners that the loader drew for some of them."""
    rows = partners = None
    if "partner" in batch and len(batch["partner"]["rows"]):
        rows = batch["partner"]["rows"].cpu().numpy()
        partners = read_batch(batch["partner"], frontend, device)
    return Clips(
        values=batch["inputs"].to(device, non_blocking=True),
        lengths=batch["lengths"].cpu().numpy(),
        targets=batch["labels"].to(device, non_blocking=True),
        frontend=frontend,
        partner_rows=rows,
        partners=partners,
    )


def to_features(clips: Clips) -> Clips:
    """Finished features, padded and normalised, of waveforms or of stored features; of partners likewise."""
    frontend = clips.frontend
    if clips.are_waveforms:
        features, _ = frontend(clips.values, clips.tensor(clips.lengths))
        frames = frontend.num_frames(clips.lengths)
    else:
        features, _ = frontend.finish(clips.values, clips.tensor(clips.lengths))
        frames = clips.lengths
    return replace(
        clips,
        values=features,
        lengths=np.minimum(frames, features.shape[1]),
        padding=normalized(frontend, frontend.preset.pad_value),
        fixed_size=frontend.target_frames is not None,
        partners=None if clips.partners is None else to_features(clips.partners),
    )


def normalized(frontend: Frontend, value: float) -> float:
    """What becomes of a raw log-mel value."""
    return value if frontend.mean is None else (value - frontend.mean) / (2 * frontend.std)
