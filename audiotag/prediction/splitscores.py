"""The scores of a model on a split that stages 1-4 prepared, and how they were made.

Everything about the model comes from itself: the data come as it knows them, and classes are matched by MID.
Under torchrun the clips are shared out over the processes; the scores are the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from audiotag.config import Config
from audiotag.data.normalization import warn_of_foreign_normalization
from audiotag.data.splits import open_split, read_coverage, read_labels
from audiotag.distributed import World
from audiotag.errors import CheckpointError, DataError
from audiotag.evaluation.conditions import describe_windows, device_name, precision_in_words
from audiotag.evaluation.scores import Scores
from audiotag.evaluation.scoring import AMP_DTYPES, check_finite, gather_scores, score_batches
from audiotag.export.package import TrainedModel
from audiotag.labels import LabelTable
from audiotag.logs import progress
from audiotag.training.loaders import evaluation_loader, windowing
from audiotag.training.otherfolds import Fold, fold_of
from audiotag.training.resume import fingerprint


class ScoredSplit(NamedTuple):
    """What came of scoring a split.

    Args:
        scores: of its clips, in the order of the manifest.
        labels: the corpus' classes, in the order of the scores.
        facts: what an evaluation keeps of how they were made: precision, windows, batch size, device, speed,
            coverage.
    """

    scores: Scores
    labels: LabelTable
    facts: dict[str, Any]


def score_split(
    split: str, model: TrainedModel, config: Config, data_dir: Path, world: World
) -> ScoredSplit | None:
    """Score a split; the result is the first process', the others get None.

    Args:
        split: valid or eval.
        model: on this process' device.
        config: its `evaluation`, `features.storage`, `data.num_workers` and `training.tf32` count.
        data_dir: folder of stages 1-4.
        world: the processes.
    """
    choice, tagger = config.evaluation, model.tagger
    config = with_features_of(model, config)
    features = config.features
    labels = read_labels(data_dir)
    columns = columns_by_mid(labels, tagger.labels)
    manifest = open_split(data_dir, split, preset=features.preset, storage=features.storage)
    coverage = read_coverage(data_dir, features.stats_name)
    if world.is_main:
        warn_of_foreign_normalization(tagger.frontend, coverage, split)
    start = time.monotonic()
    loader = evaluation_loader(config, manifest, len(labels), world, loss=model.loss)
    scores = gather_scores(
        score_batches(
            tagger,
            progress(loader, len(loader), f"scoring {split}", "batch", enabled=world.is_main),
            device=world.device,
            amp_dtype=AMP_DTYPES[choice.amp],
            loss=model.loss,
            columns=columns,
        ),
        world,
    )
    if scores is None:
        return None
    elapsed_s = time.monotonic() - start
    check_finite(scores, tagger, choice.amp)
    facts = {
        "precision": precision_in_words(choice.amp, world.device, config.training.tf32),
        "windows": describe_windows(windowing(choice, model.loss), manifest.durations),
        "batch_size": choice.batch_size,
        "batch_independent": tagger.encoder.batch_independent,
        "processes": world.size,
        "device": device_name(world.device),
        "clips_per_s": round(len(scores.ids) / elapsed_s, 3),
        "coverage": coverage,
    }
    return ScoredSplit(scores, labels, facts)


def with_features_of(model: TrainedModel, config: Config) -> Config:
    """The configuration with the features that a model knows, stored or computed as it says itself."""
    known = {key: model.config["features"][key] for key in ("preset", "target_frames")}
    return config.model_copy(update={"features": config.features.model_copy(update=known)})


def check_valid_is_held_out(
    trained_on: Mapping[str, Any] | None, model: TrainedModel, config: Config, data_dir: Path
) -> None:
    """Refuse a valid split that was carved out of other clips than a model was trained on.

    trained_on: `train_data` of the model's checkpoint.
    """
    features = with_features_of(model, config).features
    # A valid of evaluation clips was never part of train.
    if {"same_as", "part_of"} & set(read_coverage(data_dir, features.stats_name).get("valid", {})):
        return
    train = open_split(data_dir, "train", preset=features.preset, storage=features.storage)
    if trained_on != fingerprint(train):
        raise DataError(
            f"{data_dir} was prepared anew since the model was trained, so its valid split may hold clips "
            "that the model has seen: evaluate on eval alone (--set 'evaluation.splits=[eval]'), or prepare "
            "the data as it was"
        )


def check_fold(folds: Iterable[Fold], data_dir: Path) -> None:
    """Refuse the data of another fold of a cross-validation, which a model was trained on.

    folds: that the model's weights come from.
    """
    here = fold_of({}, read_coverage(data_dir))
    for fold in folds:
        if fold.shares_clips(here):
            raise DataError(
                f"{data_dir} holds fold {here.number}, the model was trained for fold {fold.number}, with "
                "the clips that are evaluated here: take the data folder of its own fold"
            )


def columns_by_mid(labels: LabelTable, model_labels: LabelTable) -> list[int]:
    """The model's output column of each of the corpus' classes; their orders may differ."""
    missing = [label for label in labels if label.mid not in model_labels.index_of_mid]
    if missing:
        raise CheckpointError(
            f"the model does not know {len(missing)} of the corpus' {len(labels)} classes, "
            f"among them {missing[0].mid} ({missing[0].name}); it was trained with other labels"
        )
    return [model_labels.index_of_mid[label.mid] for label in labels]
