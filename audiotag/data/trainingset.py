"""Training batches: like those of evaluation, but with all that chance does to clips before the device.

Every choice of a batch derives from the seed, the epoch and the batch's clips, which name it: another number
of workers or of training processes, or a run that is resumed, makes the same batch of the same clips.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from audiotag.data.chance import Chance
from audiotag.data.dataset import Batch, ClipDataset, Manifest, Storage
from audiotag.data.noise import NoiseMixer
from audiotag.data.padding import PaddedRows
from audiotag.data.replacing import MAX_TRIES, Replaced, first_readable

# (epoch, key of the clip, number wanted) to positions of other clips: `BatchPlan.substitutes`.
Substitutes = Callable[[int, int, int], np.ndarray]


class ClipTargets(Protocol):
    """What is learnt of clips beside their labels, such as `StoredTargets`."""

    def check(self, position: int, clip_id: str) -> None: ...
    def __call__(self, positions: list[int]) -> torch.Tensor: ...


@dataclass(frozen=True)
class Draft:
    """A batch in the making.

    Args:
        key: (seed, epoch, name of the batch), from which all its choices derive.
        longest_s: of the clips that it was planned with; nothing that joins them is longer.
        replaced: gets what cannot be read.
    """

    key: tuple[int, int, int]
    longest_s: float
    replaced: Replaced = field(default_factory=list)

    def chance(self, place: int) -> Chance:
        """The random numbers of a place."""
        return Chance(*self.key, place)


class TrainingDataset(ClipDataset):
    """Maps an epoch and an array of clip positions to a training batch.

    Besides what every batch has, it holds `batch_name`, an int that stands for its clips; `replaced`, ids
    and reasons of what could not be read; `num_replaced`, how many of the planned clips others stand for;
    and, with a chance of partners, `partner`: clips of the corpus to mix with `rows` of this batch, with
    `inputs`, `lengths` and `labels` of their own.

    Once `targets` is set, `labels` (B,2C) has those of each clip behind its labels.

    Args:
        manifest, storage, num_classes, length_multiple_s: as in `ClipDataset`.
        seed: all choices derive from it.
        substitutes: draws clips to take the place of one that cannot be read.
        crop_s: longest stretch of a clip that is read, at a random place; None reads whole clips.
        noise: mixes noise into clips.
        partner_probability: chance that a clip gets a partner; None for batches without `partner`.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        storage: Storage,
        num_classes: int,
        seed: int,
        substitutes: Substitutes,
        crop_s: float | None = None,
        noise: NoiseMixer | None = None,
        partner_probability: float | None = None,
        length_multiple_s: float | None = None,
    ) -> None:
        super().__init__(
            manifest, storage=storage, num_classes=num_classes, length_multiple_s=length_multiple_s
        )
        self.seed = seed
        self.substitutes = substitutes
        self.crop_s = crop_s
        self.noise = noise
        self.partner_probability = partner_probability
        self.targets: ClipTargets | None = None

    def make_batch(self, item: tuple[int, np.ndarray]) -> Batch:
        """The training batch of these clips in this epoch."""
        epoch, positions = item[0], np.asarray(item[1], dtype=np.int64)
        longest_s = float(self.manifest.durations[positions].max())
        if self.crop_s is not None:
            longest_s = min(longest_s, self.crop_s)
        name = zlib.crc32(positions.tobytes())
        draft = Draft((self.seed, epoch, name), longest_s)
        found, rows = [], PaddedRows(len(positions), self.length_multiple)
        for place, planned in enumerate(positions.tolist()):
            chance = draft.chance(place)
            position, clip = self.read_or_replace(planned, place, draft, chance)
            if self.noise is not None:
                clip = self.noise(clip, chance.rng, stored=self.stored, replaced=draft.replaced)
            found.append(position)
            rows.add(clip)
        batch = self.collate(found, rows)
        if self.partner_probability is not None:
            batch["partner"] = self.draw_partners(batch["inputs"], draft)
        num_replaced = int(np.sum(positions != found))
        return {**batch, "batch_name": name, "replaced": draft.replaced, "num_replaced": num_replaced}

    def read_or_replace(
        self, planned: int, place: int, draft: Draft, chance: Chance
    ) -> tuple[int, np.ndarray]:
        """The planned clip, or another one in its place, and its position."""

        def candidates() -> Iterator[int]:
            yield planned
            yield from self.others(planned, place, draft)

        def load(position: int) -> np.ndarray:
            return self.read(position, self.crop_s if position == planned else draft.longest_s, chance)

        return first_readable(candidates(), load, draft.replaced)

    def read(self, position: int, longest_s: float | None = None, chance: Chance | None = None) -> np.ndarray:
        """As in `ClipDataset`; a clip without targets counts as unreadable."""
        if self.targets is not None:
            self.targets.check(position, self.manifest.id(position))
        return super().read(position, longest_s, chance)

    def multi_hot(self, positions: Sequence[int]) -> torch.Tensor:
        """Labels (B,C) of some clips, or (B,2C) with their targets."""
        labels = super().multi_hot(positions)
        if self.targets is None:
            return labels
        return torch.cat([labels, self.targets(list(positions))], dim=1)

    def others(self, planned: int, place: int, draft: Draft) -> list[int]:
        """Clips to try in the place of one: first those that fit into the batch as they are.

        Of longer ones a stretch will be read, so that the limits of the batch hold.
        """
        _, epoch, name = draft.key
        drawn = self.substitutes(epoch, (name << 32) + place, MAX_TRIES)
        drawn = drawn[drawn != planned]
        too_long = self.manifest.durations[drawn] > draft.longest_s
        return drawn[np.argsort(too_long, kind="stable")].tolist()

    def draw_partners(self, inputs: torch.Tensor, draft: Draft) -> Batch:
        """Any clips of the corpus for the rows that chance chooses, cut to the longest of the batch."""
        chance = draft.chance(len(inputs))  # the place behind the last clip's
        chosen = np.flatnonzero(chance.rng.random(len(inputs)) < self.partner_probability)
        found, rows = [], PaddedRows(len(chosen), self.length_multiple)
        for _ in chosen:
            candidates = (int(chance.rng.integers(len(self.manifest))) for _ in range(1 + MAX_TRIES))
            position, clip = first_readable(
                candidates, lambda position: self.read(position, draft.longest_s, chance), draft.replaced
            )
            found.append(position)
            rows.add(clip)
        values, lengths = rows.finish()
        return {
            "rows": torch.from_numpy(chosen),
            "inputs": values if found else inputs.new_zeros(0, 1, *inputs.shape[2:]),
            "lengths": lengths,
            "labels": self.multi_hot(found),
        }
