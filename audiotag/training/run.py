"""From a configuration and the recipe's folders to a trainer that is ready to run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from audiotag.config import Config
from audiotag.configfile import dump_yaml
from audiotag.data.loader import Loader, TrainingLoader
from audiotag.data.splits import open_split, read_labels
from audiotag.distillation.hearing import stored_targets
from audiotag.distillation.teachers import open_teachers
from audiotag.distributed import World
from audiotag.evaluation.scoring import AMP_DTYPES
from audiotag.matrixproducts import allow_tf32
from audiotag.restarts import has_begun
from audiotag.tagger import Tagger
from audiotag.training.batchcount import BatchCount
from audiotag.training.batchlimit import fix_batch_limit
from audiotag.training.flops import BatchFlops, peak_flops
from audiotag.training.globalbatch import share_batches
from audiotag.training.keeper import CheckpointKeeper
from audiotag.training.loaders import (
    fill_in_statistics,
    training_data,
    validation_data,
)
from audiotag.training.meter import Meter
from audiotag.training.otherfolds import all_folds, fold_here, folds_of_sources
from audiotag.training.parts import build_parts, initial_tagger
from audiotag.training.probing import use_embeddings
from audiotag.training.profiling import make_profiler
from audiotag.training.restoring import restore_parts, restored_position
from audiotag.training.resume import check_same_run, find_checkpoint, set_aside, set_aside_newer
from audiotag.training.retention import Retention
from audiotag.training.runlog import RunLog
from audiotag.training.runrecord import make_record, write_config
from audiotag.training.signals import StopRequest
from audiotag.training.starting import begin_with, check_same_start, read_start
from audiotag.training.tensorboard import RunWriter
from audiotag.training.trainer import Trainer
from audiotag.training.validation import Validation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartOptions:
    """How a run begins.

    Args:
        restart: begin anew; an earlier run in the folder is moved aside.
        resume: `auto` for the newest readable checkpoint, or the file to go on from.
        allow_changes: go on although the configuration is another one.
        profile: updates to profile, such as 10:15; None for none.
    """

    restart: bool = False
    resume: str = "auto"
    allow_changes: bool = False
    profile: str | None = None

    def go_on(self) -> str:
        """How the run goes on once it was stopped, in words."""
        if self.restart:
            return "the same command without --restart goes on from there"
        if self.resume != "auto":
            return "the same command without --resume goes on from there"
        return "the same command goes on from there"


def prepare_trainer(
    config: Config, data_dir: Path, exp_dir: Path, world: World, options: StartOptions, stop: StopRequest
) -> Trainer:
    """Build data, model, optimiser and trainer, and restore a checkpoint if there is one.

    With `options.restart` an earlier run in the folder is moved aside, but not before all else is known to be
    well.
    """
    if options.restart and world.gather(has_begun(exp_dir))[0]:
        logger.info("this run has begun afresh already, before it was started again: going on")
        options = replace(options, restart=False)
    allow_tf32(config.training.tf32)
    config = share_batches(config, world.size)
    labels = read_labels(data_dir)
    config = fill_in_statistics(config, data_dir)
    manifest = open_split(data_dir, "train", preset=config.features.preset, storage=config.features.storage)
    path, state = (None, None) if options.restart else find_checkpoint(exp_dir, options.resume, world)
    here = fold_here(config, data_dir)
    start = read_start(config, world, here) if state is None else None
    config = fix_batch_limit(config, state, manifest, data_dir, labels, world)
    plan, train_loader = training_data(config, manifest, data_dir, labels, world)
    valid_loader = validation_data(config, data_dir, labels, world)
    teachers = open_teachers(config, labels, world, here) if config.distillation else None
    record = make_record(config, data_dir, labels, manifest, train_loader.dataset.manifest, teachers)
    if state is not None:
        check_same_run(state, record, exp_dir, world.size, allow_changes=options.allow_changes)
        record["init"] = state.get("init")
        if world.is_main:
            check_same_start(config.init, record["init"], here, allow_changes=options.allow_changes)
    tagger = initial_tagger(config, labels, world)
    if start is not None:
        record["init"] = begin_with(start, tagger, config)
    learnt = {*folds_of_sources(config), *(teachers.folds if teachers else ())}
    record["folds"] = all_folds(here, [record["init"], state], learnt)
    parts = build_parts(config, plan, train_loader.dataset.manifest, tagger, world, state, teachers)
    if state is not None:
        restore_parts(state, path, parts["learner"], parts["averages"], parts["scoreboard"], world)
    done = state["position"]["step"] if state else 0
    profiler = make_profiler(options.profile, exp_dir / "profile", world, done=done)
    # All is known to be well: from here on the folder is written to.
    take_folder(exp_dir, config, record, state, options, world)
    if teachers is not None and config.distillation.mode == "stored":
        dataset = train_loader.dataset
        dataset.targets = stored_targets(config, dataset.manifest, data_dir, labels, teachers, world, stop)
    if config.encoder.freeze:
        hear_all(config, tagger, train_loader, valid_loader, data_dir, world, stop)
    writer = open_curves(exp_dir, config, record, state, world)
    settings = config.training
    peak = peak_flops(world.device, settings.amp, settings.peak_tflops)
    flops = BatchFlops(tagger) if peak and not config.encoder.freeze else None
    meter = Meter(world.device, peak)
    trainer = Trainer(
        **parts,
        plan=plan,
        train_loader=train_loader,
        validation=valid_loader
        and Validation(
            valid_loader,
            world,
            writer,
            amp_dtype=AMP_DTYPES[config.evaluation.amp],
            loss=config.loss.name,
            zero_without_positives=config.evaluation.zero_without_positives,
        ),
        keeper=CheckpointKeeper(exp_dir, world, retention(config), record, newest=path and path.name),
        settings=record["config"]["training"],
        seed=config.seed,
        world=world,
        batch_count=BatchCount(plan, config, world.size),
        log=RunLog(meter, flops, writer, profiler, world, settings.max_overflows),
        stop=stop,
        go_on=options.go_on(),
    )
    if state is not None:
        trainer.go_back(restored_position(state, plan, trainer.batch_count), state.get("meter"))
    return trainer


def hear_all(
    config: Config,
    tagger: Tagger,
    train_loader: TrainingLoader,
    valid_loader: Callable[[], Loader] | None,
    data_dir: Path,
    world: World,
    stop: StopRequest,
) -> None:
    """Have the loaders give the frozen encoder's embeddings; windows are heard at each validation."""
    if config.init.model is None:
        logger.warning(
            "encoder.freeze keeps an encoder of random weights: init.model names a trained one to start from"
        )
    where = (config, tagger, data_dir, world, stop)
    use_embeddings(train_loader.dataset, *where, split="train", amp=config.training.amp)
    if valid_loader is not None and config.evaluation.window_s is None:
        use_embeddings(valid_loader().dataset, *where, split="valid", amp=config.evaluation.amp)


def take_folder(
    exp_dir: Path,
    config: Config,
    record: dict[str, Any],
    state: dict[str, Any] | None,
    options: StartOptions,
    world: World,
) -> None:
    """Move out of the way what is not to stay, and write the completed configuration."""
    if world.is_main:
        if options.restart and (moved := set_aside(exp_dir)):
            logger.info("the earlier run is now in %s", moved)
        if options.resume != "auto" and (moved := set_aside_newer(exp_dir, state["position"]["step"])):
            logger.info("later checkpoints are now in %s", moved)
        write_config(config, record, exp_dir)
    world.barrier()


def open_curves(
    exp_dir: Path, config: Config, record: dict[str, Any], state: dict[str, Any] | None, world: World
) -> RunWriter:
    """TensorBoard, cut back to where the run goes on."""
    position = state["position"] if state else {"step": 0}
    writer = RunWriter(
        exp_dir / "tensorboard",
        last_step=position["step"],
        last_validation=position.get("validated_step", position["step"]) or 0,
        enabled=world.is_main,
    )
    writer.text("config", dump_yaml(config))
    writer.text("provenance", "\n".join(f"{name}: {value}" for name, value in record["provenance"].items()))
    return writer


def retention(config: Config) -> Retention:
    """Which checkpoints stay."""
    settings = config.training
    best = max(settings.keep_best, config.evaluation.best_k or 0)
    # The mean between checkpoints also takes the one before the epochs that it is of.
    before = config.evaluation.avg - (not config.evaluation.use_averaged_model)
    return Retention(settings.keep_last, settings.keep_last_steps, best, before)
