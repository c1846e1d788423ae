"""Choosing and averaging checkpoints."""

from __future__ import annotations

import pytest
import torch

from audiotag.errors import CheckpointError
from audiotag.training.averaging import choose_weights
from audiotag.training.checkpoint import epoch_path, save_checkpoint
from tests.tiny import tiny_checkpoint


@pytest.fixture
def run(tmp_path):
    for epoch in (2, 3, 4, 5):
        best = {"epoch": 3, "metric": "mAP", "value": 0.9}
        save_checkpoint(epoch_path(tmp_path, epoch), tiny_checkpoint(seed=epoch, epoch=epoch, best=best))
    return tmp_path


def weights_of(epoch):
    return tiny_checkpoint(seed=epoch)["model"]


def test_the_last_epoch_is_the_default(run):
    chosen = choose_weights(run)
    assert (chosen.name, chosen.files) == ("epoch5", ["epoch-5.pt"])
    assert all(torch.equal(tensor, weights_of(5)[name]) for name, tensor in chosen.weights.items())


def test_the_mean_of_several_epochs(run):
    chosen = choose_weights(run, epoch=4, avg=3)
    assert (chosen.name, chosen.files) == ("epoch4-avg3", ["epoch-2.pt", "epoch-3.pt", "epoch-4.pt"])
    for name, tensor in chosen.weights.items():
        mean = sum(weights_of(epoch)[name].double() for epoch in (2, 3, 4)) / 3
        assert tensor.dtype == weights_of(4)[name].dtype
        assert torch.equal(tensor, mean.to(tensor.dtype)), name


def test_the_best_epoch(run):
    assert choose_weights(run, best=True).name == "best3"
    assert choose_weights(run, best=True, avg=2).files == ["epoch-2.pt", "epoch-3.pt"]


def test_missing_epochs_are_named(run, tmp_path_factory):
    with pytest.raises(CheckpointError, match="no checkpoint of epoch 1, which the average needs"):
        choose_weights(run, epoch=3, avg=3)
    with pytest.raises(CheckpointError, match=r"no checkpoint of epoch 9.*there are 2, 3, 4, 5"):
        choose_weights(run, epoch=9)
    with pytest.raises(CheckpointError, match="stage 5 makes them"):
        choose_weights(tmp_path_factory.mktemp("empty"))


def test_more_epochs_than_there_were_cannot_be_averaged(run):
    with pytest.raises(CheckpointError, match="epoch 2 cannot end an average of 3 epochs"):
        choose_weights(run, epoch=2, avg=3)


def test_a_run_without_validation_has_no_best(tmp_path):
    save_checkpoint(epoch_path(tmp_path, 1), tiny_checkpoint())
    with pytest.raises(CheckpointError, match="no best epoch is known"):
        choose_weights(tmp_path, best=True)
