"""From a configuration and the recipe's folders to a trainer that is ready to run."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from audiotag.atomic import atomic_write
from audiotag.augment.augmenter import Augmenter, build_augmenter
from audiotag.config import Config
from audiotag.configfile import dump_yaml
from audiotag.data.batching import BatchPlan
from audiotag.data.normalization import warn_of_foreign_normalization
from audiotag.data.splits import open_split, read_coverage, read_labels
from audiotag.distributed import World
from audiotag.errors import StorageError
from audiotag.labels import LabelTable
from audiotag.optim.optimizers import build_optimizer
from audiotag.optim.schedules import build_schedule
from audiotag.provenance import collect_provenance
from audiotag.tagger import build_frontend, build_tagger
from audiotag.training.loaders import fill_in_statistics, training_data, validation_data
from audiotag.training.resume import check_same_run, fingerprint, newest_checkpoint, set_aside
from audiotag.training.tensorboard import RunWriter
from audiotag.training.trainer import Trainer, derive_seed

logger = logging.getLogger(__name__)


def prepare_trainer(
    config: Config, data_dir: Path, exp_dir: Path, world: World, *, restart: bool = False
) -> Trainer:
    """Build data, model, optimiser and trainer, and restore the newest checkpoint if there is one.

    With `restart` an earlier run in the folder is moved aside, but not before all else is known to be well.
    """
    torch.backends.cuda.matmul.allow_tf32 = config.training.tf32
    torch.backends.cudnn.allow_tf32 = config.training.tf32
    labels = read_labels(data_dir)
    config = fill_in_statistics(config, data_dir)
    manifest = open_split(data_dir, "train", preset=config.features.preset, storage=config.features.storage)
    plan, train_loader = training_data(config, manifest, data_dir, labels, world)
    valid_loader = validation_data(config, data_dir, labels, world)
    mixed = train_loader.dataset.manifest if config.data.sources else None
    record = {
        "config": config.model_dump(mode="json"),
        "labels": labels.to_rows(),
        "coverage": read_coverage(data_dir, config.features.stats_name),
        "train_data": fingerprint(manifest),
        "mixed_data": fingerprint(mixed) if mixed else None,
        "provenance": collect_provenance(),
    }
    prepare_folder(exp_dir, world, restart=restart)
    state = newest_checkpoint(exp_dir)
    if state is not None:
        check_same_run(state, record, exp_dir, world.size)
    if world.is_main:
        frontend = build_frontend(record["config"]["features"])
        warn_of_foreign_normalization(frontend, record["coverage"], "train")
        with atomic_write(exp_dir / "config.yaml") as file:
            file.writelines(f"# {name}: {value}\n" for name, value in record["provenance"].items())
            file.write(dump_yaml(config))
    trainer = build_trainer(config, plan, train_loader, valid_loader, record, state, exp_dir, world)
    if state is not None:
        trainer.restore(state)
    return trainer


def prepare_folder(exp_dir: Path, world: World, *, restart: bool) -> None:
    """Make the experiment folder and see that it can be written, before any work is done."""
    if world.is_main:
        exp_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(exp_dir, os.W_OK):
            raise StorageError(f"cannot write into {exp_dir}: check its permissions")
        if restart and (moved := set_aside(exp_dir)):
            logger.info("the earlier run is now in %s", moved)
    world.barrier()


def build_trainer(
    config: Config,
    plan: BatchPlan,
    train_loader: Any,
    valid_loader: Any,
    record: dict[str, Any],
    state: dict[str, Any] | None,
    exp_dir: Path,
    world: World,
) -> Trainer:
    """A trainer at its start, with fresh weights that derive from the seed."""
    tree, labels = record["config"], LabelTable.from_rows(record["labels"])
    steps_per_epoch = -(-plan.num_batches(0) // config.training.accumulate)
    total_steps = config.training.epochs * steps_per_epoch
    torch.manual_seed(derive_seed(config.seed))
    tagger = build_tagger(tree["features"], tree["encoder"], labels).to(world.device)
    writer = RunWriter(
        exp_dir / "tensorboard",
        first_step=state["position"]["step"] + 1 if state else 1,
        enabled=world.is_main,
    )
    writer.text("config", dump_yaml(config))
    writer.text("provenance", "\n".join(f"{name}: {value}" for name, value in record["provenance"].items()))
    parameters = sum(parameter.numel() for parameter in tagger.parameters())
    logger.info(
        "%s parameters, %d updates in %d epochs", f"{parameters:,}", total_steps, config.training.epochs
    )
    return Trainer(
        tagger=tagger,
        optimizer=build_optimizer(tree["optimizer"], tagger),
        schedule=build_schedule(tree["schedule"], total_steps),
        steps_per_epoch=steps_per_epoch,
        train_loader=train_loader,
        valid_loader=valid_loader,
        augmenter=build_augmenter(tree["augment"]) or Augmenter({}, {}),
        settings=tree["training"],
        keep_before_best=config.evaluation.avg - 1,
        seed=config.seed,
        world=world,
        exp_dir=exp_dir,
        writer=writer,
        record=record,
    )
