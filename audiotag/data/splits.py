"""Where a recipe's manifests, coverage and statistics are, and which stage makes what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from audiotag.arrayfiles import read_array, read_arrays
from audiotag.data.index import IndexedManifest
from audiotag.data.stagefiles import damaged, missing, read_objects
from audiotag.errors import DataError
from audiotag.labels import LabelTable

# Features are 32-bit numbers, and so are their mean and deviation.
LARGEST_FEATURE = 3.4e38


def manifest_path(data_dir: Path, split: str, *, preset: str, storage: str) -> Path:
    """The manifest that training and evaluation read: with stored features, or plain."""
    folder = data_dir / "fbank" / preset if storage == "stored" else data_dir / "manifests"
    return folder / f"cuts_{split}.jsonl"


def open_split(data_dir: Path, split: str, *, preset: str, storage: str) -> IndexedManifest:
    """The indexed manifest of a split, or an error that names the stage to run."""
    path = manifest_path(data_dir, split, preset=preset, storage=storage)
    if not path.is_file():
        raise missing(path, stage=2 if storage == "stored" else 1)
    return IndexedManifest([path])


def read_labels(data_dir: Path) -> LabelTable:
    """The label table that stage 1 left."""
    path = data_dir / "manifests" / "labels.csv"
    if not path.is_file():
        raise missing(path, stage=1)
    try:
        return LabelTable.read(path)
    except DataError as error:
        raise DataError(f"{error}; run stage 1 again with --force") from None


def read_coverage(data_dir: Path, stats_name: str | None = None) -> dict[str, Any]:
    """Clips present of clips listed, per split, as stage 1 counted them; `notes` holds what is of no split.

    stats_name: name of the folder of stage 4's statistics; where it has them, each split gets them as
    `features`.
    """
    coverage = read_objects(data_dir / "manifests" / "coverage.json", stage=1)
    if stats_name is not None and stats_path(data_dir, stats_name).exists():
        for split, measured in read_statistics(data_dir, stats_name).items():
            if split in coverage:
                coverage[split]["features"] = measured
    return coverage


def stats_dir(data_dir: Path, name: str) -> Path:
    """Where stage 4 leaves what it measures; the name is `Features.stats_name` of the configuration."""
    return data_dir / "stats" / name


def stats_path(data_dir: Path, name: str) -> Path:
    """The file of mean and deviation."""
    return stats_dir(data_dir, name) / "stats.json"


def read_statistics(data_dir: Path, name: str) -> dict[str, dict[str, Any]]:
    """What stage 4 measured of each split: mean, std, num_values, num_clips, of_clips, target_frames."""
    path = stats_path(data_dir, name)
    statistics = read_objects(path, stage=4)
    for split in {"train": {}, **statistics}:
        measured = statistics.get(split, {})
        mean, std = measured.get("mean"), measured.get("std")
        if not (is_feature_value(mean) and is_feature_value(std) and std >= 0):
            raise damaged(path, f"{split}: mean {mean}, deviation {std}", stage=4)
    return statistics


def is_feature_value(value: Any) -> bool:
    """Whether an entry of a JSON file is a number that features can have."""
    return type(value) in (int, float) and abs(value) < LARGEST_FEATURE


def read_sounds(data_dir: Path, split: str) -> np.ndarray | None:
    """Stage 1's number (N,) for the audio of each clip of a split, 0 for silence; None without its file."""
    path = data_dir / "manifests" / f"sounds_{split}.npz"
    earlier = path.with_suffix(".npy")  # without a checksum
    if not path.exists() and not earlier.exists():
        return None
    try:
        sounds = read_arrays(path, "sounds")[0] if path.exists() else read_array(earlier)
        if sounds.dtype != np.uint64 or sounds.ndim != 1:
            raise ValueError(f"expected a list of uint64, found {sounds.dtype} of shape {sounds.shape}")
    except (OSError, ValueError) as error:
        raise damaged(path if path.exists() else earlier, error, stage=1) from None
    return sounds
