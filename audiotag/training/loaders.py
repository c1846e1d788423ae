"""The batches of a run: of training, with sampling and noise, and of validation and evaluation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from audiotag.config import Config
from audiotag.corpora.stats import load_sampling_weights, load_stats
from audiotag.data.batching import BatchPlan
from audiotag.data.dataset import make_loader
from audiotag.data.index import IndexedManifest
from audiotag.data.noise import NoiseMixer, noise_path
from audiotag.data.splits import manifest_path, open_split
from audiotag.distributed import World
from audiotag.errors import DataError
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
) -> tuple[BatchPlan, Any]:
    """The plan of all epochs and a function from an epoch to a loader of this process' batches."""
    weighted = config.data.sampling == "weighted"
    plan = BatchPlan(
        manifest.durations,
        seed=config.seed,
        world_size=world.size,
        rank=world.rank,
        batch_size=config.data.batch_size,
        max_duration_s=config.data.max_duration_s,
        weights=load_sampling_weights(data_dir, config.features.stats_name, manifest) if weighted else None,
        samples_per_epoch=config.data.samples_per_epoch,
    )
    logger.info("training on %d clips, %d batches an epoch and process", len(manifest), plan.num_batches(1))
    noise = noise_mixer(config, data_dir)

    def loader(epoch: int) -> Any:
        return make_loader(
            manifest,
            plan.batches(epoch),
            storage=config.features.storage,
            num_classes=len(labels),
            num_workers=config.data.num_workers,
            seed=config.seed,
            epoch=epoch,
            rank=world.rank,
            pin_memory=world.device.type == "cuda",
            noise=noise,
        )

    return plan, loader


def noise_mixer(config: Config, data_dir: Path) -> NoiseMixer | None:
    """What mixes noise into training clips, when the configuration asks for it."""
    noise = config.augment.noise
    if noise is None:
        return None
    path = noise_path(data_dir, config.features.preset)
    if not path.is_file():
        raise DataError(f"{path} is missing; stage 3 makes it (./run.sh --stage 3)")
    return NoiseMixer(IndexedManifest([path]), noise.probability, noise.snr_db)


def validation_data(config: Config, data_dir: Path, labels: LabelTable, world: World) -> Any:
    """A function that gives a loader of this process' share of `valid`; None when no split is held out."""
    path = manifest_path(data_dir, "valid", preset=config.features.preset, storage=config.features.storage)
    if config.corpus.valid_share == 0 and not path.is_file():
        logger.warning("no valid split (corpus.valid_share is 0): no metrics while training, no best epoch")
        return None
    manifest = open_split(data_dir, "valid", preset=config.features.preset, storage=config.features.storage)
    return lambda: evaluation_loader(config, manifest, len(labels), world)


def evaluation_loader(config: Config, manifest: IndexedManifest, num_classes: int, world: World) -> Any:
    """This process' share of a split, every clip once over all processes."""
    plan = BatchPlan(
        manifest.durations,
        seed=config.seed,
        world_size=world.size,
        rank=world.rank,
        batch_size=config.evaluation.batch_size,
        training=False,
    )
    return make_loader(
        manifest,
        plan.batches(0),
        storage=config.features.storage,
        num_classes=num_classes,
        num_workers=config.data.num_workers,
        seed=config.seed,
        epoch=0,
        rank=world.rank,
        pin_memory=world.device.type == "cuda",
    )
