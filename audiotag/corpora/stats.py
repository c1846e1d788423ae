"""Stage 4: mean and deviation of the features, label counts and class-balanced sampling weights.

data/stats/<features>/stats.json          by split: mean, std, num_values, num_clips, of_clips, target_frames
data/stats/<features>/normalization.yaml  mean and std of train, as a section of a configuration
data/stats/<features>/label_counts.csv    clips of each label, per split
data/stats/<features>/weights_train.npz   ids and weights: a weight belongs to an id, not to a place
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.arrayfiles import read_arrays
from audiotag.atomic import atomic_write
from audiotag.corpora.manifests import SPLITS, write_json
from audiotag.corpora.moments import measure
from audiotag.data.index import IndexedManifest
from audiotag.data.splits import (
    manifest_path,
    open_split,
    read_coverage,
    read_labels,
    read_statistics,
    stats_dir,
    stats_path,
)
from audiotag.data.stagefiles import damaged, missing
from audiotag.errors import DataError
from audiotag.frontend import Frontend
from audiotag.writable import check_writable

logger = logging.getLogger(__name__)


def corpus_stats(
    data_dir: Path, name: str, *, preset: str, storage: str, target_frames: int | None, num_jobs: int = 1
) -> None:
    """Measure the features and count the labels of every split; weigh the clips of train.

    Args:
        data_dir: folder of manifests and features.
        name: of the folder to write in data_dir/stats: `Features.stats_name`.
        preset, storage, target_frames: keys of the configuration's `features` section.
        num_jobs: processes.
    """
    folder = stats_dir(data_dir, name)
    check_writable(folder)
    table = read_labels(data_dir)
    coverage = read_coverage(data_dir)
    manifests = {
        split: open_split(data_dir, split, preset=preset, storage=storage)
        for split in SPLITS
        if split == "train" or manifest_path(data_dir, split, preset=preset, storage=storage).is_file()
    }
    frontend = Frontend(preset, target_frames, normalize=False)
    stats: dict[str, dict] = {}
    for split, manifest in manifests.items():
        if "same_as" not in coverage.get(split, {}):
            stats[split] = measure(split, manifest, frontend, storage, num_jobs)
    for split in manifests.keys() - stats.keys():
        stats[split] = stats[coverage[split]["same_as"]]
    write_json(stats_path(data_dir, name), stats)
    with atomic_write(normalization_path(data_dir, name)) as file:
        file.write(normalization_yaml(stats["train"], preset))

    counts = {
        split: np.bincount(manifest.label_ids, minlength=len(table)) for split, manifest in manifests.items()
    }
    with atomic_write(folder / "label_counts.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "mid", "display_name", *counts])
        for label in table:
            numbers = [int(count[label.index]) for count in counts.values()]
            writer.writerow([label.index, label.mid, label.name, *numbers])

    train = manifests["train"]
    weights = class_balanced_weights(train.label_ids, train.label_starts)
    if not weights.all():
        logger.info("train: %d clips without labels have weight 0", int((weights == 0).sum()))
    with atomic_write(weights_path(data_dir, name), "wb") as file:
        np.savez(file, ids=train.ids(), weights=weights)


def normalization_yaml(train: Mapping[str, Any], preset: str) -> str:
    """Mean and deviation of train as a section of a configuration, to be pasted where they shall be fixed."""
    frames = f", {train['target_frames']} frames of each" if train["target_frames"] else ""
    return (
        f"# train: {train['num_clips']} of {train['of_clips']} clips{frames}, {preset}\n"
        f"features:\n  mean: {train['mean']:.7f}\n  std: {train['std']:.7f}\n"
    )


def class_balanced_weights(label_ids: np.ndarray, label_starts: np.ndarray) -> np.ndarray:
    """Weights (N,): the sum over a clip's labels of 1000 / (occurrences of the label + 0.01).

    A label that is listed twice for a clip counts twice in both places, as in the AST recipe.

    Args:
        label_ids: class indices of all clips, one after the other.
        label_starts: (N+1,) bounds of each clip's part.
    """
    num_clips = len(label_starts) - 1
    label_weights = 1000.0 / (np.bincount(label_ids) + 0.01)
    clip_of_label = np.repeat(np.arange(num_clips), np.diff(label_starts))
    return np.bincount(clip_of_label, weights=label_weights[label_ids], minlength=num_clips)


def load_stats(data_dir: Path, name: str) -> dict[str, float | int | None]:
    """What was measured of the training split, by which features are normalised."""
    stats = read_statistics(data_dir, name)["train"]
    if stats["std"] == 0:
        raise DataError(
            f"{stats_path(data_dir, name)}: all features of train have the value {stats['mean']:g}, so that "
            "there is no deviation to divide by: set features.normalization to preset, or look at the clips"
        )
    return stats


def load_sampling_weights(data_dir: Path, name: str, manifest: IndexedManifest) -> np.ndarray:
    """Sampling weights (N,) of the manifest's cuts, found by id whatever the order."""
    path = weights_path(data_dir, name)
    try:
        ids, weights = read_weights(path)
    except FileNotFoundError:
        raise missing(path, stage=4) from None
    except (OSError, ValueError) as error:
        raise damaged(path, error, stage=4) from None
    wanted = manifest.ids()
    places = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    without = np.flatnonzero(ids[places] != wanted)
    if len(without):
        raise DataError(
            f"{path} has no weight for {len(without)} of {len(wanted)} cuts, such as "
            f"{manifest.id(int(without[0]))}: it was made from another manifest; run stage 4 again"
        )
    return weights[places]


def read_weights(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Ids (N,) in order, as bytes, and their weights (N,)."""
    ids, weights = read_arrays(path, "ids", "weights")
    if ids.dtype.kind != "S" or ids.ndim != 1 or not len(ids) or weights.shape != ids.shape:
        raise ValueError("expected a list of ids and as many weights")
    if weights.dtype.kind not in "fiu" or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("expected finite weights, 0 or more")
    order = np.argsort(ids)
    ids, weights = ids[order], weights[order]
    if (ids[1:] == ids[:-1]).any():
        raise ValueError("an id occurs twice")
    return ids, weights


def normalization_path(data_dir: Path, name: str) -> Path:
    """The file of mean and deviation of train for people to paste."""
    return stats_dir(data_dir, name) / "normalization.yaml"


def weights_path(data_dir: Path, name: str) -> Path:
    """The file of sampling weights."""
    return stats_dir(data_dir, name) / "weights_train.npz"
