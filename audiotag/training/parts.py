"""The parts of a training as they are at its start: the model, and what changes and judges its weights."""

from __future__ import annotations

import logging
from typing import Any

import torch

from audiotag.augment.augmenter import Augmenter, build_augmenter
from audiotag.config import Config
from audiotag.data.batching import BatchPlan
from audiotag.distillation.teachers import Teachers
from audiotag.distributed import World
from audiotag.labels import LabelTable
from audiotag.losses import build_loss
from audiotag.optim.freezing import Freezer
from audiotag.optim.optimizers import build_optimizer
from audiotag.optim.schedules import build_schedule
from audiotag.tagger import Tagger, build_tagger
from audiotag.training.acceleration import accelerate
from audiotag.training.classweights import class_counts
from audiotag.training.learner import Learner
from audiotag.training.position import derive_seed
from audiotag.training.probing import Unaugmented
from audiotag.training.scoreboard import Scoreboard
from audiotag.training.teaching import with_teachers
from audiotag.training.weightaverages import WeightAverages

logger = logging.getLogger(__name__)

FROZEN_ENCODER = [{"modules": ["encoder"], "epochs": None}]


def initial_tagger(config: Config, labels: LabelTable, world: World) -> Tagger:
    """The model with fresh weights that derive from the seed, on its device."""
    torch.manual_seed(derive_seed(config.seed))
    tagger = build_tagger(
        config.features.model_dump(mode="json"), config.encoder.model_dump(mode="json"), labels
    ).to(world.device)
    tagger.frontend.pad_to_multiple(config.data.length_multiple_s)
    accelerate(
        tagger,
        compile=config.training.compile,
        activation_checkpointing=config.training.activation_checkpointing,
    )
    return tagger


def build_parts(
    config: Config,
    plan: BatchPlan,
    clips: Any,
    tagger: Tagger,
    world: World,
    state: dict[str, Any] | None,
    teachers: Teachers | None = None,
) -> dict[str, Any]:
    """What changes a model's weights, averages and judges its weights, all as at the start of a run.

    Args:
        clips: what is trained on, for the weights of the classes.
        state: the checkpoint that the run goes on from, which tells how long epochs were at the start.
        teachers: of distillation, on the CPU.
    """
    section = config.model_dump(mode="json")
    settings = section["training"]
    labels = tagger.labels
    loss = build_loss(section["loss"], labels, class_counts(config, clips, len(labels)))
    augmenter = build_augmenter(section["augment"]) or Augmenter({}, {})
    if teachers is not None:
        loss, augmenter = with_teachers(config, loss, augmenter, tagger, teachers, world)
    loss.to(world.device)
    optimizer = build_optimizer(section["optimizer"], tagger, loss)
    steps_per_epoch = -(-plan.num_batches(0) // config.training.accumulate)
    logger.info(
        "%s parameters, %d updates in %d epochs",
        f"{sum(parameter.numel() for parameter in tagger.parameters()):,}",
        config.training.epochs * steps_per_epoch,
        config.training.epochs,
    )
    # A warm-up of so many updates must not begin again when more processes make them fewer.
    steps_per_epoch = (state["position"].get("steps_per_epoch") if state else None) or steps_per_epoch
    total_steps = config.training.epochs * steps_per_epoch
    return {
        "learner": Learner(
            tagger,
            loss,
            optimizer,
            world,
            amp=settings["amp"],
            clip_norm=settings["clip_norm"],
            grad_scaler=settings["grad_scaler"],
        ),
        "schedule": build_schedule(section["schedule"], total_steps, steps_per_epoch),
        "steps_per_epoch": steps_per_epoch,
        "averages": WeightAverages(tagger, settings["ema"], settings["running_average"], settings["swa"]),
        "freezer": Freezer(tagger, settings["freeze"] + FROZEN_ENCODER * config.encoder.freeze),
        "augmenter": Unaugmented() if config.encoder.freeze else augmenter,
        "scoreboard": Scoreboard(settings["best_metric"], settings["min_delta"]),
    }
