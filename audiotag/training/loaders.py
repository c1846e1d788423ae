"""The batches of a run: of training, with sampling and noise, and of validation and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from audiotag.config import Config, Data, Source
from audiotag.configevaluation import Evaluation
from audiotag.corpora.stats import load_sampling_weights, load_stats
from audiotag.data.batching import BatchPlan
from audiotag.data.dataset import check_labels
from audiotag.data.index import IndexedManifest
from audiotag.data.loader import Loader, TrainingLoader, make_loader
from audiotag.data.longclips import warn_of_long_clips
from audiotag.data.noise import NoiseMixer, noise_path
from audiotag.data.presence import check_files
from audiotag.data.sampling import PlanSource
from audiotag.data.sources import MixedManifest, SourceSet, check_held_out, open_source
from audiotag.data.splits import manifest_path, open_split
from audiotag.data.trainingset import TrainingDataset
from audiotag.distributed import World
from audiotag.errors import ConfigError, DataError
from audiotag.evaluation.windows import Windowing, window_loader
from audiotag.frontend import SAMPLING_RATE, Frontend
from audiotag.labels import LabelTable

logger = logging.getLogger(__name__)


def fill_in_statistics(config: Config, data_dir: Path) -> Config:
    """With `normalization: corpus`, put stage 4's mean and deviation into the configuration.

    The completed configuration is all that evaluation and export read.
    """
    features = config.features
    if features.normalization != "corpus" or features.mean is not None:
        return config
    stats = load_stats(data_dir, features.stats_name)
    filled = features.model_copy(update={"mean": stats["mean"], "std": stats["std"]})
    return config.model_copy(update={"features": filled})


def training_data(
    config: Config, manifest: IndexedManifest, data_dir: Path, labels: LabelTable, world: World
) -> tuple[BatchPlan, TrainingLoader]:
    """The plan of all epochs and a function from an epoch to a loader of this process' batches.

    Args:
        config: the configuration.
        manifest: the recipe's own train set, which `data.sources` mixes with others.
        data_dir: the recipe's data folder.
        labels: the recipe's labels.
        world: the processes of the run.
    """
    plan, dataset = training_set(config, manifest, data_dir, labels, world)
    if world.is_main:
        durations = read_durations(config, dataset.manifest)
        warn_of_long_clips(durations, "train", model_frontend(config), training=True)
    logger.info(
        "training on %d clips, %d batches an epoch and process", len(dataset.manifest), plan.num_batches(0)
    )
    return plan, TrainingLoader(
        dataset,
        plan.batches,
        num_workers=config.data.num_workers,
        max_unreadable=config.data.max_unreadable,
        pin_memory=world.device.type == "cuda",
    )


def training_set(
    config: Config, manifest: IndexedManifest, data_dir: Path, labels: LabelTable, world: World
) -> tuple[BatchPlan, TrainingDataset]:
    """The plan of all epochs, and what makes a batch of the clips that it names; see `training_data`."""
    data, augment = config.data, config.augment
    clips = training_clips(config, manifest, data_dir, labels)
    plan = BatchPlan(
        padded_durations(config, clips),
        seed=config.seed,
        world_size=world.size,
        rank=world.rank,
        batch_size=data.batch_size,
        max_duration_s=known_limit(data),
        weights=sampling_weights(config, clips, data_dir) if data.sampling == "weighted" else None,
        replacement=data.replacement,
        num_buckets=data.num_buckets,
        samples_per_epoch=data.samples_per_epoch,
        sources=plan_sources(data.sources, clips) if data.sources else None,
    )
    mixup = augment.mixup
    return plan, TrainingDataset(
        clips,
        storage=config.features.storage,
        num_classes=len(labels),
        seed=config.seed,
        substitutes=plan.substitutes,
        crop_s=augment.crop.duration_s if augment.crop else None,
        noise=noise_mixer(config, data_dir),
        partner_probability=mixup.probability if mixup and mixup.partner == "corpus" else None,
        length_multiple_s=data.length_multiple_s,
    )


def training_clips(
    config: Config, manifest: IndexedManifest, data_dir: Path, labels: LabelTable
) -> IndexedManifest | MixedManifest:
    """All clips that are trained on: the recipe's own, or those of `data.sources`."""
    return mix_sources(config, manifest, data_dir, labels) if config.data.sources else manifest


def read_durations(config: Config, clips: IndexedManifest | MixedManifest) -> np.ndarray:
    """Seconds (N,) of each clip as it is read: at most those of a crop."""
    crop = config.augment.crop
    return clips.durations if crop is None else np.minimum(clips.durations, np.float32(crop.duration_s))


def padded_durations(config: Config, clips: IndexedManifest | MixedManifest) -> np.ndarray:
    """Seconds (N,) that each clip takes in a batch at least, by which batches are filled."""
    durations, multiple = read_durations(config, clips), config.data.length_multiple_s
    if multiple is None:
        return durations
    # Durations have 32 bits: one that is a multiple may lie above it by a rounding.
    return (np.ceil(durations / multiple - 1e-5) * multiple).astype(np.float32)


def known_limit(data: Data) -> float | None:
    """`data.max_duration_s` as a number; `auto` is replaced by one when training begins."""
    if data.max_duration_s == "auto":
        raise ConfigError(
            "data.max_duration_s is auto, which only training can turn into seconds: set a number here, such "
            "as the one in the config.yaml of a run"
        )
    return data.max_duration_s


def mix_sources(
    config: Config, manifest: IndexedManifest, data_dir: Path, labels: LabelTable
) -> MixedManifest:
    """The train sets of `data.sources` in their order; clips that this recipe evaluates on are refused."""
    features = {"preset": config.features.preset, "storage": config.features.storage}
    sets = []
    for source in config.data.sources:
        if source.data_dir is None:
            check_labels(manifest, len(labels))
            sets.append(SourceSet(data_dir, manifest, np.arange(len(labels), dtype=np.int32)))
            continue
        missing_are_unknown = source.missing_classes == "unknown"
        other = open_source(
            Path(source.data_dir), labels, **features, missing_are_unknown=missing_are_unknown
        )
        check_held_out(other, data_dir, **features)
        sets.append(other)
    return MixedManifest(sets)


def plan_sources(sources: list[Source], clips: MixedManifest) -> list[PlanSource]:
    """The sources' ranges of positions and their weights."""
    bounds = clips.bounds.tolist()
    return [
        PlanSource(start, end, source.weight)
        for start, end, source in zip(bounds[:-1], bounds[1:], sources, strict=True)
    ]


def sampling_weights(config: Config, clips: IndexedManifest | MixedManifest, data_dir: Path) -> np.ndarray:
    """Stage 4's weights of the clips; those of a source lie in its own data folder."""
    name = config.features.stats_name
    if isinstance(clips, MixedManifest):
        parts = [load_sampling_weights(source.data_dir, name, source.manifest) for source in clips.sets]
        return np.concatenate(parts)
    return load_sampling_weights(data_dir, name, clips)


def noise_mixer(config: Config, data_dir: Path) -> NoiseMixer | None:
    """What mixes noise into training clips, when the configuration asks for it."""
    noise = config.augment.noise
    if noise is None:
        return None
    path = noise_path(data_dir, config.features.preset)
    if not path.is_file():
        raise DataError(f"{path} is missing; stage 3 makes it (./run.sh --stage 3)")
    return NoiseMixer(IndexedManifest([path]), noise.probability, noise.snr_db)


def validation_data(
    config: Config, data_dir: Path, labels: LabelTable, world: World
) -> Callable[[], Loader] | None:
    """A function that gives a loader of this process' share of `valid`; None when no split is held out."""
    path = manifest_path(data_dir, "valid", preset=config.features.preset, storage=config.features.storage)
    if config.corpus.valid_share == 0 and not path.is_file():
        logger.warning("no valid split (corpus.valid_share is 0): no metrics while training, no best epoch")
        return None
    manifest = open_split(data_dir, "valid", preset=config.features.preset, storage=config.features.storage)
    loader = evaluation_loader(config, manifest, len(labels), world)
    return lambda: loader


def evaluation_loader(
    config: Config, manifest: IndexedManifest, num_classes: int, world: World, *, loss: str | None = None
) -> Loader:
    """This process' share of a split, every clip once over all processes; may be iterated over again.

    Validation while training and stage 6 both take it, so that they measure the same.

    Args:
        config: the configuration.
        manifest: the split.
        num_classes: of the corpus.
        world: the processes.
        loss: name of the loss that the model was trained with; None for the configuration's.
    """
    if len(manifest) == 0:
        raise DataError(f"{manifest.paths[0]} has no clips to score; stage 1 says which it skipped and why")
    frontend = model_frontend(config)
    windows = windowing(config.evaluation, loss or config.loss.name)
    if windows and frontend.num_frames(round(windows.window_s * SAMPLING_RATE)) < 1:
        raise ConfigError(f"evaluation.window_s {windows.window_s:g} is too short for one frame of features")
    if world.is_main:
        split = manifest.paths[0].stem.removeprefix("cuts_")
        check_files(manifest, split, stored=config.features.storage == "stored")
        heard = np.minimum(manifest.durations, windows.window_s) if windows else manifest.durations
        warn_of_long_clips(heard, split, frontend, training=False)
    options = {
        "storage": config.features.storage,
        "num_classes": num_classes,
        "num_workers": config.data.num_workers,
        "pin_memory": world.device.type == "cuda",
    }
    size = {"batch_size": config.evaluation.batch_size, "world_size": world.size, "rank": world.rank}
    if windows:
        return window_loader(manifest, windows, **size, **options)
    plan = BatchPlan(manifest.durations, seed=config.seed, **size, training=False)
    return make_loader(manifest, plan.batches(0), **options)


def windowing(section: Evaluation, loss: str) -> Windowing | None:
    """How long clips are cut for a model that was trained with a loss; None takes them whole."""
    if section.window_s is None:
        return None
    mean = section.window_mean
    if mean == "probabilities":
        mean = "softmax" if loss == "ce" else "sigmoid"
    return Windowing(section.window_s, section.hop_s or section.window_s / 2, mean)


def model_frontend(config: Config) -> Frontend:
    """The front end of the configuration's model, which says how long its clips are."""
    return Frontend(config.features.preset, config.features.target_frames, normalize=False)
