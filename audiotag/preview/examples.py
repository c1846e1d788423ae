"""What the augmentation of a configuration makes of some training clips: sound, features and labels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiotag.augment.augmenter import Augmenter, build_augmenter
from audiotag.config import Config
from audiotag.data.dataset import ClipDataset
from audiotag.data.loading import load_audio
from audiotag.data.splits import open_split, read_labels
from audiotag.data.trainingset import TrainingDataset
from audiotag.distributed import World
from audiotag.errors import DataError
from audiotag.evaluation.scoring import model_inputs
from audiotag.frontend import Frontend
from audiotag.labels import LabelTable
from audiotag.preview.page import Example, Take
from audiotag.tagger import build_frontend
from audiotag.training.loaders import fill_in_statistics, training_set

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")


def make_examples(
    config: Config, data_dir: Path, *, ids: list[str], num_clips: int, num_takes: int
) -> list[Example]:
    """Clips as they are, and as they enter the model in each of some epochs.

    Args:
        config: the recipe's configuration.
        data_dir: folder of stages 1-4.
        ids: clips of train to show.
        num_clips: clips drawn by the configuration's seed, where no ids are given.
        num_takes: epochs to show.
    """
    labels = read_labels(data_dir)
    config = fill_in_statistics(config, data_dir)
    features, one_by_one = config.features, {"batch_size": 1, "max_duration_s": None}
    config = config.model_copy(update={"data": config.data.model_copy(update=one_by_one)})
    manifest = open_split(data_dir, "train", preset=features.preset, storage=features.storage)
    _, dataset = training_set(
        config, manifest, data_dir, labels, World(rank=0, local_rank=0, size=1, device=CPU)
    )
    frontend = build_frontend(features.model_dump())
    augmenter = build_augmenter(config.augment.model_dump()) or Augmenter({}, {})
    positions = choose(dataset, ids, num_clips, config.seed)
    plain = ClipDataset(dataset.manifest, storage=features.storage, num_classes=len(labels))
    takes = [[original(plain, position, frontend, labels)] for position in positions.tolist()]
    for epoch in range(1, num_takes + 1):
        batch = dataset.make_batch((epoch, positions))
        for of_clip, take in zip(
            takes, augmented(batch, epoch, config.seed, augmenter, frontend, labels), strict=True
        ):
            of_clip.append(take)
    return [
        Example(dataset.manifest.id(position), of_clip)
        for position, of_clip in zip(positions.tolist(), takes, strict=True)
    ]


def choose(dataset: TrainingDataset, ids: list[str], num_clips: int, seed: int) -> np.ndarray:
    """Positions of the clips to show."""
    manifest = dataset.manifest
    if not ids:
        count = min(num_clips, len(manifest))
        return np.sort(np.random.default_rng(seed).choice(len(manifest), count, replace=False))
    known = manifest.ids()
    positions = []
    for clip in ids:
        found = np.flatnonzero(known == clip.encode())
        if not len(found):
            raise DataError(f"train has no clip {clip!r}; its ids are in {manifest.paths[0]}")
        positions.append(int(found[0]))
    return np.array(positions)


def original(dataset: ClipDataset, position: int, frontend: Frontend, labels: LabelTable) -> Take:
    """A clip as it is, whole."""
    batch = dataset.make_batch(np.array([position]))
    features, lengths = model_inputs(frontend, batch, CPU)
    samples, note = sound_of(dataset.manifest.record(position))
    return Take(
        "as it is",
        features[0, : int(lengths[0])].numpy(),
        named(batch["labels"][0], labels),
        samples,
        note,
    )


def sound_of(record: dict[str, Any]) -> tuple[np.ndarray | None, str]:
    """The audio behind a cut, which may be gone where its features are stored."""
    try:
        return load_audio(record), ""
    except DataError as error:
        logger.warning("%s", error)
        return None, "its audio cannot be read"


def augmented(
    batch: dict[str, Any],
    epoch: int,
    seed: int,
    augmenter: Augmenter,
    frontend: Frontend,
    labels: LabelTable,
) -> list[Take]:
    """All clips of a batch as they enter the model in an epoch."""
    key = (seed, epoch, batch["batch_name"])
    changed = augmenter.change_inputs(batch, frontend, CPU, key)
    features, lengths, targets = augmenter(batch, frontend, CPU, key)
    takes = []
    for row, length in enumerate(lengths.tolist()):
        samples, note = None, "features are stored: there is no sound to play"
        if changed.are_waveforms:
            samples, note = changed.values[row, : int(changed.lengths[row])].numpy(), ""
        takes.append(
            Take(
                f"epoch {epoch}",
                features[row, :length].numpy(),
                named(targets[row], labels),
                samples,
                note,
            )
        )
    return takes


def named(targets: torch.Tensor, labels: LabelTable) -> list[tuple[str, float]]:
    """Names and weights of the classes of a clip, without those that are unknown."""
    positive = (targets > 0).nonzero().flatten().tolist()
    return [(labels[index].name, float(targets[index])) for index in positive]
