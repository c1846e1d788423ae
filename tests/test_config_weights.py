"""Which choices of weights a configuration accepts: what excludes what, and what training must keep."""

from __future__ import annotations

import pytest

from audiotag.configfile import load_config
from audiotag.errors import ConfigError

AVERAGED = ("training.running_average={}", "evaluation.use_averaged_model=true")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.best=true", "evaluation.epoch=3"], "best and epoch exclude each other"),
        (["evaluation.epoch=3", "evaluation.best_k=2"], "epoch and best_k exclude each other"),
        (["evaluation.checkpoints=[a.pt]", "evaluation.between=[a, b]"], "checkpoints and between exclude"),
        (["evaluation.best_k=2", "evaluation.avg=2"], "avg 2 averages epochs, and best_k chooses otherwise"),
        (["evaluation.checkpoints=[]"], "at least 1 item"),
        (["evaluation.between=[a, b, c]"], "evaluation.between"),
        (["evaluation.between=[a, b]"], "evaluation.between takes the running_average of the weights, but"),
        (
            ["evaluation.between=[a, b]", "evaluation.weights=ema", "training.ema={}"],
            "leave weights at null",
        ),
        (["evaluation.weights=ema"], "training.ema is not set"),
        (
            ["evaluation.use_averaged_model=true"],
            "use_averaged_model takes the running_average of the weights",
        ),
        ([*AVERAGED, "evaluation.best_k=2"], "use_averaged_model and best_k exclude"),
        ([*AVERAGED, "evaluation.weights=ema", "training.ema={}"], "leave weights at null"),
        ([*AVERAGED, "evaluation.epoch=4", "evaluation.avg=4"], "set avg to less than epoch"),
        ([*AVERAGED, "evaluation.avg=10"], "evaluation.avg 10 and the epoch before them"),
        ([*AVERAGED, "evaluation.avg=3", "training.keep_last=3"], "keeps too few checkpoints"),
        (["training.validate_weights=swa"], "training.swa is not set"),
        (["training.swa.first_epoch=11"], "first_epoch 11 comes after"),
        (["training.swa={first_epoch: 5, last_epoch: 4}"], "first_epoch 5 comes after"),
        (["training.keep_last=3", "evaluation.best_k=2"], "keep_best 1 keeps too few"),
        (["training.validate_every_steps=9", "evaluation.best_k=2"], "keep_best 1 keeps too few"),
    ],
)
def test_choices_that_cannot_be_met_are_refused(overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["evaluation.best_k=5"],
        ["training.keep_last=3", "training.keep_best=2", "evaluation.best_k=2"],
        ["evaluation.best=true", "evaluation.avg=2"],
        ["training.ema={}", "evaluation.weights=ema", "evaluation.best_k=2"],
        ["training.running_average={}", "evaluation.between=[a, b]", "evaluation.weights=running_average"],
        ["training.swa={first_epoch: 10, last_epoch: 10}", "training.validate_weights=swa"],
        ["training.swa={first_epoch: 1, last_epoch: 99}"],
        [*AVERAGED, "evaluation.avg=9"],
        [*AVERAGED, "evaluation.avg=3", "training.keep_last=4", "evaluation.best=true"],
    ],
)
def test_choices_that_can_be_met_are_taken(overrides):
    load_config(None, overrides)
