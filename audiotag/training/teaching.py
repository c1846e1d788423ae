"""What teachers change in a training: the loss, and the batches where they hear these."""

from __future__ import annotations

import logging

import torch

from audiotag.augment.augmenter import Augmenter
from audiotag.config import Config
from audiotag.distillation.loss import DistillationLoss, build_distillation_loss
from audiotag.distillation.online import OnlineTeachers, check_inputs
from audiotag.distillation.teachers import Teachers
from audiotag.distributed import World
from audiotag.losses import Loss
from audiotag.tagger import Tagger
from audiotag.training.acceleration import accelerate
from audiotag.training.position import derive_seed

logger = logging.getLogger(__name__)


def with_teachers(
    config: Config, loss: Loss, augmenter: Augmenter, tagger: Tagger, teachers: Teachers, world: World
) -> tuple[DistillationLoss, Augmenter | OnlineTeachers]:
    """The loss that takes teachers into account, and what makes batches with their targets: the loader where
    these are stored, else they hear each batch."""
    section = config.model_dump(mode="json")["distillation"]
    # A map between embeddings begins alike on all processes.
    torch.manual_seed(derive_seed(config.seed))
    widths = (tagger.encoder.output_dim, teachers.width) if section["feature_weight"] else None
    loss = build_distillation_loss(section, loss, widths)
    augment = config.augment
    if section["mode"] == "stored":
        if changed := [name for name in ("crop", "random_length") if getattr(augment, name)]:
            logger.warning(
                "augment.%s has the student hear a part of a clip, of which stored teachers have heard the "
                "whole: distillation.mode online has them hear the same",
                changed[0],
            )
        return loss, augmenter
    check_inputs(config, teachers, tagger.frontend, augmenter)
    for member in teachers.to(world.device).members:
        accelerate(member.model.tagger, compile=config.training.compile)
    return loss, OnlineTeachers(augmenter, teachers, section, config.training.amp)
