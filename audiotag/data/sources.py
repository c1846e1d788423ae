"""Train sets of several recipes as one: positions count through them, labels are matched by MID."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.data.index import IndexedManifest
from audiotag.data.splits import manifest_path, open_split, read_labels, read_sounds
from audiotag.errors import DataError
from audiotag.labels import LabelTable

logger = logging.getLogger(__name__)

NAMED = 5


@dataclass(frozen=True)
class SourceSet:
    """The train set of one recipe.

    Args:
        data_dir: the recipe's data folder.
        manifest: its cuts.
        classes: (number of its labels,) our class index of each of its labels, -1 for one that we lack.
        unlabelled: our class indices of which none of its cuts says whether it has them.
    """

    data_dir: Path
    manifest: IndexedManifest
    classes: np.ndarray
    unlabelled: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int32))

    def ours(self, theirs: np.ndarray) -> np.ndarray:
        """Our indices of some of its classes, without those that we lack."""
        found = self.classes[theirs]
        return found[found >= 0]


class MixedManifest:
    """Several train sets behind the interface of one `IndexedManifest`, with our class indices."""

    def __init__(self, sets: Sequence[SourceSet]) -> None:
        self.sets = list(sets)
        self.paths = [path for source in sets for path in source.manifest.paths]
        self.bounds = np.cumsum([0, *(len(source.manifest) for source in sets)])

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def _locate(self, index: int) -> tuple[SourceSet, int]:
        """The set of a position, and the position in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"cut {index} of {len(self)}")
        part = int(np.searchsorted(self.bounds, index, side="right")) - 1
        return self.sets[part], int(index) - int(self.bounds[part])

    @cached_property
    def durations(self) -> np.ndarray:
        """Durations (N,) in seconds, float32."""
        return np.concatenate([source.manifest.durations for source in self.sets])

    @cached_property
    def label_ids(self) -> np.ndarray:
        """Our class indices of all cuts, one after the other; `label_starts` says which are whose."""
        return np.concatenate([source.classes[source.manifest.label_ids] for source in self.sets])

    @cached_property
    def label_starts(self) -> np.ndarray:
        """Bounds (N+1,) of each cut's part of `label_ids`."""
        counts = [np.diff(source.manifest.label_starts) for source in self.sets]
        return np.concatenate([[0], np.cumsum(np.concatenate(counts))])

    def labels(self, index: int) -> np.ndarray:
        """Our class indices of a cut."""
        source, position = self._locate(index)
        return source.classes[source.manifest.labels(position)]

    @cached_property
    def unlabelled_ids(self) -> np.ndarray:
        """Our class indices of which some cuts do not say whether they have them, once or more often."""
        parts = [(source.ours(source.manifest.unlabelled_ids), source.unlabelled) for source in self.sets]
        return np.concatenate([ids for part in parts for ids in part])

    def unlabelled(self, index: int) -> np.ndarray:
        """Our indices of the classes of which a cut does not say whether it has them."""
        source, position = self._locate(index)
        return np.concatenate([source.ours(source.manifest.unlabelled(position)), source.unlabelled])

    def unlabelled_columns(self) -> list[np.ndarray]:
        """All that is said of unlabelled classes; arrays that are alike where it is, empty for nothing."""
        return [
            column
            for source in self.sets
            for column in (*source.manifest.unlabelled_columns(), source.unlabelled)
        ]

    def id(self, index: int) -> str:
        """Id of a cut."""
        source, position = self._locate(index)
        return source.manifest.id(position)

    def ids(self) -> np.ndarray:
        """Ids (N,) of all cuts as UTF-8 bytes."""
        return np.concatenate([source.manifest.ids() for source in self.sets])

    def record(self, index: int) -> dict[str, Any]:
        """A cut as the plain dictionary of its line, in which classes have its own recipe's numbers."""
        source, position = self._locate(index)
        return source.manifest.record(position)


def open_source(
    data_dir: Path, labels: LabelTable, *, preset: str, storage: str, missing_are_unknown: bool = True
) -> SourceSet:
    """The train set in a recipe's data folder.

    Args:
        data_dir: the folder.
        labels: of the recipe that trains on it.
        preset, storage: keys of the configuration's `features` section.
        missing_are_unknown: whether clips may have classes that the recipe's own labels lack; otherwise they
            have none of them.
    """
    manifest = open_split(data_dir, "train", preset=preset, storage=storage)
    theirs = read_labels(data_dir)
    counts = np.bincount(manifest.label_ids, minlength=len(theirs))
    largest = max(len(counts) - 1, int(manifest.unlabelled_ids.max(initial=-1)))
    if largest >= len(theirs):
        raise DataError(
            f"{manifest.paths[0]} has class {largest}, but labels.csv of {data_dir} has only "
            f"{len(theirs)} labels: run stage 1 of that recipe again"
        )
    unknown = [label for label in theirs if counts[label.index] and label.mid not in labels.index_of_mid]
    if unknown:
        shown = ", ".join(f"{label.mid} ({label.name})" for label in unknown[:NAMED])
        raise DataError(
            f"data.sources: clips of {data_dir} have {len(unknown)} labels that this recipe does not know: "
            f"{shown}{', ...' if len(unknown) > NAMED else ''}; add them to this recipe's label list, or "
            "leave the source out"
        )
    classes = [labels.index_of_mid.get(label.mid, -1) for label in theirs]
    missing = [label for label in labels if label.mid not in theirs.index_of_mid]
    if missing:
        logger.info(
            "data.sources: %s lacks %d of %d classes, such as %s: %s",
            data_dir,
            len(missing),
            len(labels),
            missing[0].name,
            "for its clips they are unknown" if missing_are_unknown else "its clips count as without them",
        )
    unlabelled = [label.index for label in missing] if missing_are_unknown else []
    return SourceSet(
        data_dir, manifest, np.array(classes, dtype=np.int32), np.array(unlabelled, dtype=np.int32)
    )


def check_held_out(source: SourceSet, data_dir: Path, *, preset: str, storage: str) -> None:
    """Refuse a source with clips that this recipe, in `data_dir`, evaluates on.

    Clips are known again by their audio: other recipes name them otherwise, or others alike.
    """
    for split in ("valid", "eval"):
        path = manifest_path(data_dir, split, preset=preset, storage=storage)
        if not path.is_file():
            continue
        theirs, ours = read_sounds(source.data_dir, "train"), read_sounds(data_dir, split)
        if theirs is not None and ours is not None and len(theirs) == len(source.manifest):
            leaks = np.flatnonzero(np.isin(theirs, ours[ours > 0])).tolist()
        else:
            logger.warning(
                "data.sources: %s or %s has no list of its clips' audio (sounds_*.npz): clips that are in "
                "both are looked for by their ids; run stage 1 again with --force to make it",
                source.data_dir,
                data_dir,
            )
            leaks = np.flatnonzero(np.isin(source.manifest.ids(), IndexedManifest(path).ids())).tolist()
        if leaks:
            raise DataError(
                f"data.sources: {len(leaks)} clips of {source.data_dir} are also in this recipe's {split} "
                f"split, such as {source.manifest.id(leaks[0])}: results on clips that were trained on "
                "are worth nothing; take them out of that recipe's train lists, or leave the source out"
            )
