"""Loading batches in tests, for evaluation and for training, and comparing them."""

from __future__ import annotations

from typing import Any

import torch

from audiotag.data.batching import BatchPlan
from audiotag.data.loader import TrainingLoader, make_loader
from audiotag.data.trainingset import TrainingDataset

NUM_CLASSES = 5


def load(manifest, batches, *, storage="on_the_fly", num_workers=0) -> list[dict[str, Any]]:
    """The batches of an evaluation."""
    return list(
        make_loader(manifest, batches, storage=storage, num_classes=NUM_CLASSES, num_workers=num_workers)
    )


def training_loader(
    manifest,
    *,
    storage="on_the_fly",
    num_workers=0,
    seed=1,
    batch_size=4,
    world_size=1,
    rank=0,
    weights=None,
    max_unreadable=0.0,
    batches=None,
    **options,
) -> TrainingLoader:
    """A loader of one process; `batches` replace those of the plan, `options` go to the dataset."""
    plan = BatchPlan(
        manifest.durations,
        seed=seed,
        batch_size=batch_size,
        world_size=world_size,
        rank=rank,
        weights=weights,
    )
    dataset = TrainingDataset(
        manifest,
        storage=storage,
        num_classes=NUM_CLASSES,
        seed=seed,
        substitutes=plan.substitutes,
        **options,
    )
    planned = plan.batches if batches is None else (lambda epoch, first: batches)
    return TrainingLoader(dataset, planned, num_workers=num_workers, max_unreadable=max_unreadable)


def load_epoch(manifest, *, epoch=1, first=0, **options) -> list[dict[str, Any]]:
    """The training batches of an epoch."""
    return list(training_loader(manifest, **options)(epoch, first))


def assert_same(batches, others) -> None:
    """Both are the same batches, down to the last bit."""
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert_same_entries(batch, other)


def assert_same_entries(batch, other) -> None:
    """Both hold the same under the same names."""
    assert batch.keys() == other.keys()
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        elif isinstance(value, dict):
            assert_same_entries(value, other[name])
        else:
            assert value == other[name], name


def same(batch, other) -> bool:
    """Whether two batches hold the same sound."""
    return batch["inputs"].shape == other["inputs"].shape and torch.equal(batch["inputs"], other["inputs"])
