"""Teachers that hear what the student hears: batches with soft targets behind the labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from audiotag.augment.augmenter import Augmenter
from audiotag.augment.clips import Clips
from audiotag.config import Config
from audiotag.distillation.softening import soften
from audiotag.distillation.teachers import KEY, Teachers
from audiotag.errors import ConfigError
from audiotag.frontend import Frontend

logger = logging.getLogger(__name__)

# Clips that are mixed as features must be mixed for a teacher with features of its own as well, or it would
# hear others than the student.
MIXING = "mixup_features"


class OnlineTeachers:
    """Takes the place of an augmenter: its targets have the teachers' behind the labels.

    A teacher that takes the very features that the student takes hears these, with all that augmentation has
    done to them. Another one makes features of its own from the same augmented waveforms; what changes
    features, other than mixing them, is then for the student alone.

    Args:
        augmenter: changes the batches.
        teachers: on the device.
        section: the `distillation` section of the configuration.
        amp: precision of the teachers' forward pass.
    """

    def __init__(
        self, augmenter: Augmenter, teachers: Teachers, section: Mapping[str, Any], amp: str
    ) -> None:
        self.augmenter = augmenter
        self.teachers = teachers
        self.amp = amp
        self.with_embeddings = section["feature_weight"] > 0
        self.softness = {"temperature": section["temperature"], "form": section["form"]}
        mixing = {name: step for name, step in augmenter.on_features.items() if name == MIXING}
        self.for_own_features = Augmenter({}, mixing)

    @torch.no_grad()
    def __call__(
        self, batch: dict[str, Any], frontend: Frontend, device: torch.device, rng_key: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B,T,F), lengths (B,) and targets: labels (B,C), soft targets (B,C) and, with
        `feature_weight`, the teacher's embeddings (B,E), side by side.

        The arguments are those of `Augmenter`.
        """
        clips = self.augmenter.change_inputs(batch, frontend, device, rng_key)
        features, lengths, labels = self.augmenter.change_features(clips, rng_key)
        heard = []
        for member in self.teachers.members:
            own = member.model.tagger.frontend
            if takes_the_same(own, frontend):
                heard.append((features, lengths))
            else:
                heard.append(self.for_own_features.change_features(heard_by(own, clips), rng_key)[:2])
        logits, embeddings = self.teachers(heard, self.amp)
        targets = [labels, soften(logits, **self.softness, exclusive=self.teachers.exclusive)]
        if self.with_embeddings:
            targets.append(embeddings)
        return features, lengths, torch.cat(targets, dim=1)


def takes_the_same(one: Frontend, other: Frontend) -> bool:
    """Whether two front ends make the same features of the same clips."""
    return settings_of(one) == settings_of(other)


def settings_of(frontend: Frontend) -> tuple[Any, ...]:
    """What a front end's features depend on."""
    shortest = None if frontend.target_frames else frontend.min_frames
    return frontend.preset, frontend.target_frames, frontend.mean, frontend.std, shortest


def heard_by(frontend: Frontend, clips: Clips) -> Clips:
    """The clips on their way into another front end."""
    partners = None if clips.partners is None else heard_by(frontend, clips.partners)
    return replace(clips, frontend=frontend, partners=partners)


def check_inputs(config: Config, teachers: Teachers, frontend: Frontend, augmenter: Augmenter) -> None:
    """Refuse teachers that cannot hear what the student hears; say which augmentations they do not hear.

    Args:
        config: the student's.
        teachers: to hear its batches.
        frontend: the student's.
        augmenter: the student's.
    """
    student_alone = [name for name in augmenter.on_features if name != MIXING]
    source = "stored ones" if config.features.storage == "stored" else "augmented waveforms"
    rest = f", without the student's {', '.join(student_alone)}" if student_alone else ""
    for member in teachers.members:
        if config.features.storage == "stored" and member.preset != config.features.preset:
            raise ConfigError(
                f"{KEY}: {member.place} takes features of preset {member.preset}, but those of "
                f"{config.features.preset} are stored: set features.storage to on_the_fly, or "
                "distillation.mode to stored"
            )
        if takes_the_same(member.model.tagger.frontend, frontend):
            logger.info("teacher %s hears the student's own features, augmented as they are", member.place)
        else:
            logger.info("teacher %s makes features of its own of the same %s%s", member.place, source, rest)
