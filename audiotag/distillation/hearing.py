"""What teachers say of every training clip, stored: made where it is not there yet.

Shapes: B clips of a batch, C classes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.config import Config
from audiotag.data.dataset import Batch, Manifest
from audiotag.data.rowstore import RowKind, RowStore, describe_clips, key_of
from audiotag.data.splits import open_split
from audiotag.distillation.storedtargets import StoredTargets, rows_of
from audiotag.distillation.teachers import Teachers
from audiotag.distributed import World
from audiotag.errors import ConfigError
from audiotag.evaluation.scoring import model_inputs
from audiotag.labels import LabelTable
from audiotag.provenance import collect_provenance
from audiotag.training.hearing import BLOCK_CLIPS, HeardClips, Hearer, fill_store
from audiotag.training.loaders import training_clips
from audiotag.training.signals import StopRequest

logger = logging.getLogger(__name__)

# Logits, or log odds where the teachers' classes exclude each other. The 11 binary digits of float16 are
# enough: a logit of 8 is off by at most 0.004.
SCORES = RowKind("the teachers' scores", "scores", "audiotag-teacher-scores", "float16")


def stored_targets(
    config: Config,
    clips: Manifest,
    data_dir: Path,
    labels: LabelTable,
    teachers: Teachers,
    world: World,
    stop: StopRequest,
) -> StoredTargets:
    """The teachers' scores of all training clips, made now where they are not there yet.

    Args:
        config: the student's configuration.
        clips: what it is trained on.
        data_dir: the recipe's data folder, in which `teacher/` holds the scores.
        labels: the recipe's classes.
        teachers: on the CPU.
        world: the processes.
        stop: tells whether a signal asked to stop.
    """
    if config.features.storage != heard_storage(config, teachers):
        manifest = open_split(data_dir, "train", preset=config.features.preset, storage="on_the_fly")
        features = config.features.model_copy(update={"storage": "on_the_fly"})
        config = config.model_copy(update={"features": features})
        heard = training_clips(config, manifest, data_dir, labels)
    else:
        heard = clips
    store, info = describe_store(config, heard, data_dir, labels, teachers)
    dataset = HeardClips(heard, storage=config.features.storage, num_classes=len(labels))
    hearer = Hearer(
        lambda batch: said_of(batch, config, teachers, world),
        "teachers hear",
        "it gets no scores, and training takes another",
        lambda: teachers.to(world.device),
    )
    fill_store(store, info, config, dataset, hearer, world, stop)
    teachers.to("cpu")
    logger.info("teachers' scores of %d clips: %s", store.num_clips, store.folder)
    scores, ids = store.open()
    section = config.distillation
    return StoredTargets(
        scores,
        rows_of(clips.ids(), ids),
        temperature=section.temperature,
        form=section.form,
        exclusive=teachers.exclusive,
    )


def heard_storage(config: Config, teachers: Teachers) -> str:
    """Where the teachers' features come from: stored ones only where they suit all of them."""
    suits = all(member.preset == config.features.preset for member in teachers.members)
    return config.features.storage if suits else "on_the_fly"


def describe_store(
    config: Config, clips: Manifest, data_dir: Path, labels: LabelTable, teachers: Teachers
) -> tuple[RowStore, dict[str, Any]]:
    """Where the scores belong, and what they are made of: another teacher or clip gives another place."""
    info = {
        "teachers": teachers.describe(),
        "clips": describe_clips(clips),
        "classes": [label.mid for label in labels],
        "storage": config.features.storage,
        "amp": config.evaluation.amp,
    }
    key = key_of(info)
    places = [member.place for member in teachers.members]
    name = places[0].stem + (f"+{len(places) - 1}" if len(places) > 1 else "")
    folder = data_dir / "teacher" / f"{name}-{key[:8]}"
    store = RowStore(folder, key, len(clips), len(labels), BLOCK_CLIPS, SCORES)
    about = {"places": [str(place) for place in places], "provenance": collect_provenance()}
    return store, {**info, **about}


def said_of(batch: Batch, config: Config, teachers: Teachers, world: World) -> np.ndarray:
    """The teachers' logits (B,C) of a batch, whole and unchanged, as in evaluation."""
    frontends = [member.model.tagger.frontend for member in teachers.members]
    heard = [model_inputs(frontend, batch, world.device) for frontend in frontends]
    amp = config.evaluation.amp
    logits = teachers(heard, amp)[0].cpu().numpy()
    bad = np.flatnonzero(np.isnan(logits).any(axis=1))
    if len(bad):
        advice = "set evaluation.amp to bf16 or off" if amp == "fp16" else "take another teacher"
        raise ConfigError(
            f"distillation.teachers: the scores of clip {batch['ids'][bad[0]]} are not finite; {advice}"
        )
    return logits
