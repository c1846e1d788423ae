"""Disk space for what the stages will write: features, rows of clips, and the checkpoints that are kept."""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from audiotag.checks.finding import Finding, fail, ok, warn
from audiotag.checks.storedrows import planned_rows
from audiotag.config import Config
from audiotag.corpora.musan import WINDOW_S, find_recordings
from audiotag.data.noise import noise_path
from audiotag.data.splits import manifest_path, open_split
from audiotag.errors import AudiotagError, StorageError
from audiotag.frontend import FRAME_SHIFT, PRESETS, SAMPLING_RATE
from audiotag.writable import existing

GB = 1e9
# lilcom with steps of 2**-5 takes 1.1 bytes for a value of the generated corpus.
BYTES_PER_VALUE = 1.2
BYTES_PER_CUT = 1500  # of a manifest with features, its index and its shard's manifest
FLOAT32, FLOAT64 = 4, 8
# Numbers of the state for each parameter, by optimiser.
MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1, "scaled_adam": 2}
# Curves, scores, reports, logs.
SMALL_FILES = 0.2 * GB
SPLITS = ("train", "valid", "eval")


@dataclass(frozen=True)
class ModelSize:
    """What of a model the size of files depends on.

    Args:
        parameters: their number.
        classes: their number.
        width: of an embedding.
    """

    parameters: int = 0
    classes: int = 0
    width: int = 0


def check_space(config: Config, data_dir: Path, exp_dir: Path, model: ModelSize) -> list[Finding]:
    """Whether all that is still to be written fits, on the one file system or the two."""
    features, note = planned_features(config, data_dir)
    noise, of_noise = planned_noise(config, data_dir)
    rows, of_rows = stored_rows(config, data_dir, model)
    checkpoint = checkpoint_bytes(config, model.parameters)
    kept = kept_checkpoints(config)
    there = sum(path.stat().st_size for path in exp_dir.glob("*.pt"))
    run = max(0.0, checkpoint * kept - there) + SMALL_FILES
    texts = {
        data_dir: f"features {shown(features)}{note}{of_noise}{of_rows}",
        exp_dir: f"{kept} checkpoints of {shown(checkpoint)} each",
    }
    needs = {data_dir: features + noise + rows, exp_dir: run}
    if device_of(data_dir) == device_of(exp_dir):
        texts = {exp_dir: "; ".join(texts.values())}
        needs = {exp_dir: sum(needs.values())}
    return [check_folder(folder, needs[folder], text) for folder, text in texts.items()]


def check_folder(folder: Path, need: float, text: str) -> Finding:
    """Whether a file system has room for so much."""
    free = shutil.disk_usage(existing(folder)).free
    text = f"{folder}: {shown(free)} free, {shown(need)} needed ({text})"
    if free < need:
        advice = "free some space, or keep fewer checkpoints (training.keep_last)"
        return fail("disk space", text, advice, StorageError)
    if free < 1.2 * need:
        return warn("disk space", text, "that is little more than needed; quotas are not looked at")
    return ok("disk space", text)


def planned_features(config: Config, data_dir: Path) -> tuple[float, str]:
    """Bytes of features that stage 2 has yet to write, and what to say of it."""
    preset, storage = config.features.preset, config.features.storage
    if storage == "on_the_fly":
        return 0.0, " (computed on the fly)"
    if manifest_path(data_dir, "train", preset=preset, storage="stored").is_file():
        return 0.0, " (they are there)"
    durations = []
    for split in SPLITS:
        try:
            durations.append(open_split(data_dir, split, preset=preset, storage="on_the_fly").durations)
        except AudiotagError:
            continue
    if not durations:
        return 0.0, " (unknown before stage 1)"
    lengths = np.concatenate(durations).astype(np.float64)
    return feature_bytes(lengths.sum(), len(lengths), preset), f" of {lengths.sum() / 3600:.1f} h"


def feature_bytes(seconds: float, num_cuts: int, preset: str) -> float:
    """Bytes of stored features."""
    values = seconds * SAMPLING_RATE / FRAME_SHIFT * PRESETS[preset].num_mel_bins
    return values * BYTES_PER_VALUE + num_cuts * BYTES_PER_CUT


def planned_noise(config: Config, data_dir: Path) -> tuple[float, str]:
    """Bytes of features that stage 3 has yet to write, and what to say of it."""
    noise, preset = config.augment.noise, config.features.preset
    if noise is None or config.features.storage == "on_the_fly" or noise_path(data_dir, preset).is_file():
        return 0.0, ""
    seconds = 0.0
    try:
        for path in find_recordings(noise.dir):
            with suppress(soundfile.LibsndfileError):  # stage 3 leaves it out
                seconds += soundfile.info(path).duration
    except (AudiotagError, OSError):  # as the check of the noise says
        return 0.0, ", noise unknown"
    size = feature_bytes(seconds, math.ceil(seconds / WINDOW_S), preset)
    return size, f", noise {shown(size)} of {seconds / 3600:.1f} h"


def stored_rows(config: Config, data_dir: Path, model: ModelSize) -> tuple[float, str]:
    """Bytes of what training has yet to store of every clip, and what to say of it."""
    try:
        planned = planned_rows(config, data_dir, model.classes, model.width)
    except AudiotagError:
        return 0.0, ", scores or embeddings of clips unknown yet"
    return sum(planned.values()), "".join(f", {name} {shown(size)}" for name, size in planned.items())


def checkpoint_bytes(config: Config, num_parameters: int) -> float:
    """Bytes of a training checkpoint: weights, moments of the optimiser, averages."""
    training = config.training
    averages = sum(average is not None for average in (training.ema, training.running_average, training.swa))
    moments = MOMENTS[config.optimizer.name]
    return num_parameters * (FLOAT32 * (1 + moments) + FLOAT64 * averages)


def kept_checkpoints(config: Config) -> int:
    """The most checkpoints that lie in the folder at a time, the one that is being written included."""
    training, evaluation = config.training, config.evaluation
    if training.keep_last == 0:
        epochs = training.epochs
    else:
        best = max(training.keep_best, evaluation.best_k or 0) + evaluation.avg
        epochs = min(training.epochs, training.keep_last + best)
    steps = training.keep_last_steps if training.save_every_steps or training.validate_every_steps else 0
    return epochs + steps + 1


def device_of(folder: Path) -> int:
    """The file system of a folder that may not be there yet."""
    return existing(folder).stat().st_dev


def shown(size: float) -> str:
    """Bytes in GB, or in MB where they are few."""
    return f"{size / GB:.1f} GB" if size >= GB else f"{size / 1e6:.0f} MB"
