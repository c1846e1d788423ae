"""Stage 4: mean and deviation of the features, label counts and class-balanced sampling weights.

data/stats/<features>/stats.json          mean, std, num_values, num_clips, target_frames
data/stats/<features>/label_counts.csv    clips of each label, per split
data/stats/<features>/weights_train.npz   ids and weights: a weight belongs to an id, not to a place
"""

from __future__ import annotations

import csv
import json
import logging
import math
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from audiotag.atomic import atomic_write
from audiotag.corpora.manifests import SPLITS, write_json
from audiotag.corpora.parallel import parallel_map
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio, load_features
from audiotag.data.splits import manifest_path, open_split, read_labels
from audiotag.errors import DataError
from audiotag.frontend import Frontend
from audiotag.logs import progress

logger = logging.getLogger(__name__)

CLIPS_PER_TASK = 64


def corpus_stats(
    data_dir: Path, name: str, *, preset: str, storage: str, target_frames: int | None, num_jobs: int = 1
) -> None:
    """Measure the training split and count the labels of all splits.

    Args:
        data_dir: folder of manifests and features.
        name: of the folder to write in data_dir/stats: `Features.stats_name`.
        preset, storage, target_frames: keys of the configuration's `features` section.
        num_jobs: processes.
    """
    folder = stats_dir(data_dir, name)
    table = read_labels(data_dir)
    train = open_split(data_dir, "train", preset=preset, storage=storage)
    stats = measure(train, Frontend(preset, target_frames, normalize=False), storage, num_jobs)
    logger.info("mean %.7g, std %.7g over %d clips", stats["mean"], stats["std"], stats["num_clips"])
    write_json(folder / "stats.json", stats)

    counts = {}
    for split in SPLITS:
        if manifest_path(data_dir, split, preset=preset, storage=storage).is_file():
            manifest = open_split(data_dir, split, preset=preset, storage=storage)
            counts[split] = np.bincount(manifest.label_ids, minlength=len(table))
    with atomic_write(folder / "label_counts.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "mid", "display_name", *counts])
        for label in table:
            numbers = [int(count[label.index]) for count in counts.values()]
            writer.writerow([label.index, label.mid, label.name, *numbers])

    weights = class_balanced_weights(train.label_ids, train.label_starts)
    if not weights.all():
        logger.info("train: %d clips without labels have weight 0", int((weights == 0).sum()))
    with atomic_write(weights_path(data_dir, name), "wb") as file:
        np.savez(file, ids=train.ids(), weights=weights)


def measure(
    manifest: IndexedManifest, frontend: Frontend, storage: str, num_jobs: int
) -> dict[str, float | int | None]:
    """Mean and deviation of all values of the un-normalised features as the encoder would get them.

    Clips are cut or padded to the front end's `target_frames` first, and the padding counts, as in the AST
    recipe; without a fixed length there is no padding.
    """
    tasks = [
        range(start, min(start + CLIPS_PER_TASK, len(manifest)))
        for start in range(0, len(manifest), CLIPS_PER_TASK)
    ]
    work = partial(sum_features, manifest, frontend, storage)
    results = progress(parallel_map(work, tasks, num_jobs), len(tasks), "statistics", unit="tasks")
    num_values, total, total_squares = np.sum(list(results), axis=0)
    mean = total / num_values
    return {
        "mean": float(mean),
        "std": math.sqrt(max(total_squares / num_values - mean**2, 0.0)),
        "num_values": int(num_values),
        "num_clips": len(manifest),
        "target_frames": frontend.target_frames,
    }


def sum_features(
    manifest: IndexedManifest, frontend: Frontend, storage: str, positions: range
) -> tuple[int, float, float]:
    """Number, sum and sum of squares of the values of some clips, in float64."""
    num_values, total, total_squares = 0, 0.0, 0.0
    for position in positions:
        record = manifest.record(position)
        if storage == "stored":
            raw = torch.from_numpy(load_features(record))[None]
            frames = torch.tensor([raw.shape[1]])
        else:
            samples = torch.from_numpy(load_audio(record))[None]
            raw, frames = frontend.extract(samples, torch.tensor([samples.shape[1]]))
        values = frontend.finish(raw, frames)[0].double()
        num_values += values.numel()
        total += float(values.sum())
        total_squares += float(values.square().sum())
    return num_values, total, total_squares


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
    """The contents of stats.json: mean, std, num_values, num_clips, target_frames."""
    path = stats_dir(data_dir, name) / "stats.json"
    try:
        stats = json.loads(path.read_text(encoding="utf-8"))
        if not (math.isfinite(stats["mean"]) and stats["std"] > 0):
            raise ValueError(f"mean {stats['mean']}, std {stats['std']}")
    except FileNotFoundError:
        raise DataError(f"{path} is missing; stage 4 makes it (./run.sh --stage 4)") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); run stage 4 again with --force") from None
    return stats


def load_sampling_weights(data_dir: Path, name: str, manifest: IndexedManifest) -> np.ndarray:
    """Sampling weights (N,) of the manifest's cuts, found by id whatever the order."""
    path = weights_path(data_dir, name)
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, weights = file["ids"], file["weights"]
    except FileNotFoundError:
        raise DataError(f"{path} is missing; stage 4 makes it (./run.sh --stage 4)") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}); run stage 4 again with --force") from None
    wanted = manifest.ids()
    order = np.argsort(ids)
    places = np.searchsorted(ids, wanted, sorter=order)
    places = order[np.minimum(places, len(ids) - 1)]
    missing = np.flatnonzero(ids[places] != wanted)
    if len(missing):
        raise DataError(
            f"{path} has no weight for {len(missing)} of {len(wanted)} cuts, such as "
            f"{manifest.id(int(missing[0]))}: it was made from another manifest; run stage 4 again"
        )
    return weights[places]


def stats_dir(data_dir: Path, name: str) -> Path:
    """Where stage 4 leaves what it measures."""
    return data_dir / "stats" / name


def weights_path(data_dir: Path, name: str) -> Path:
    """The file of sampling weights."""
    return stats_dir(data_dir, name) / "weights_train.npz"
