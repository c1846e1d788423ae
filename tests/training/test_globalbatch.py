"""`training.batches_per_update`: the same updates on any number of processes."""

from __future__ import annotations

import pytest
import torch

from audiotag.configfile import load_config
from audiotag.errors import ConfigError
from audiotag.training.checkpoint import load_checkpoint
from audiotag.training.globalbatch import share_batches

SIX = ("data.batch_size=6", "training.log_every=1")  # 36 clips: six batches, however many processes
TOGETHER = (*SIX, "training.batches_per_update=2")


@pytest.mark.parametrize(("processes", "each"), [(1, 6), (2, 3), (6, 1)])
def test_the_processes_share_the_batches(recipe, processes, each):
    config = load_config(recipe.folder / "config.yaml", ["training.batches_per_update=6"])
    assert share_batches(config, processes).training.accumulate == each


def test_without_the_key_each_has_its_own(recipe):
    config = load_config(recipe.folder / "config.yaml", ["training.accumulate=3"])
    assert share_batches(config, 2) is config


@pytest.mark.parametrize("processes", [4, 12])
def test_a_number_that_cannot_be_shared_is_refused(recipe, processes):
    config = load_config(recipe.folder / "config.yaml", ["training.batches_per_update=6"])
    with pytest.raises(ConfigError, match=f"is 6, which {processes} processes cannot share evenly"):
        share_batches(config, processes)


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_processes_as_if_nothing_had_changed(recipe):
    undisturbed = recipe.train("global-two", *TOGETHER, "training.epochs=4", processes=2)
    assert undisturbed.returncode == 0, undisturbed.stderr
    first = (*TOGETHER, "training.epochs=2")
    assert recipe.train("global-fewer", *first, processes=2).returncode == 0
    done = recipe.train("global-fewer", *TOGETHER, "training.epochs=4")
    assert done.returncode == 0, done.stderr
    assert "by 2 processes so far, by 1 from here: the effective batch stays at 2 batches" in done.stderr
    whole, parts = (load_checkpoint(recipe.exp(f"global-{name}") / "epoch-4.pt") for name in ("two", "fewer"))
    assert parts["position"]["step"] == whole["position"]["step"] == 12
    for name, tensor in whole["model"].items():
        torch.testing.assert_close(parts["model"][name], tensor, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.slow
def test_another_global_batch_is_another_run(recipe):
    assert recipe.train("global-changed", *TOGETHER, "training.epochs=1").returncode == 0
    done = recipe.train("global-changed", *SIX, "training.batches_per_update=3", "training.epochs=2")
    assert done.returncode == 2
    assert "training.batches_per_update (2 -> 3)" in done.stderr
