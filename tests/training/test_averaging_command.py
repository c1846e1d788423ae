"""The options that choose weights, the average command, and what reads its file."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

import audiotag
from audiotag.bin import average, export
from audiotag.commandline import add_config_arguments
from audiotag.config import Config
from audiotag.configevaluation import WeightChoice
from audiotag.configfile import dump_yaml, load_config
from audiotag.errors import CheckpointError, ConfigError
from audiotag.training.averaging import add_weight_arguments, choose_weights, weight_overrides
from audiotag.training.checkpoint import epoch_path, load_checkpoint, save_checkpoint
from tests.tiny import tiny_checkpoint, tiny_config

CHOICES = {
    "best": False,
    "epoch": None,
    "avg": 1,
    "best_k": None,
    "checkpoints": None,
    "between": None,
    "use_averaged_model": False,
    "weights": "model",
}


def chosen_by(config: list[str], *arguments: str) -> dict:
    """What differs from the defaults when a configuration meets options."""
    parser = argparse.ArgumentParser()
    add_config_arguments(parser, required=False)
    add_weight_arguments(parser)
    overrides = weight_overrides(parser.parse_args(arguments))
    kept = ["training.ema={}", "training.swa.first_epoch=1", "training.running_average={}"]
    evaluation = load_config(None, kept + [f"evaluation.{key}" for key in config] + overrides).evaluation
    return {
        key: getattr(evaluation, key) for key, value in CHOICES.items() if getattr(evaluation, key) != value
    }


@pytest.mark.parametrize(
    ("config", "arguments", "expected"),
    [
        ([], [], {}),
        (["avg=3"], [], {"avg": 3}),
        (["avg=3"], ["--epoch", "7"], {"epoch": 7, "avg": 3}),
        (["epoch=4"], ["--best", "--avg", "2"], {"best": True, "avg": 2}),
        (["best=true"], ["--epoch", "4"], {"epoch": 4}),
        (["best=true", "avg=3"], ["--avg", "1"], {"best": True}),
        (["best=true", "avg=3"], ["--best-k", "4"], {"best_k": 4}),
        (["best_k=4"], ["--epoch", "3"], {"epoch": 3}),
        (["best_k=4"], ["--avg", "3"], {"avg": 3}),
        (["best_k=4"], ["--checkpoints", "a=b.pt", "x: 'é'.pt"], {"checkpoints": ["a=b.pt", "x: 'é'.pt"]}),
        (["avg=2"], ["--between", "a.pt", "b.pt"], {"between": ("a.pt", "b.pt")}),
        (["weights=ema"], ["--between", "a.pt", "b.pt"], {"between": ("a.pt", "b.pt")}),
        (
            ["weights=ema", "best_k=2"],
            ["--epoch", "7", "--avg", "3", "--use-averaged-model"],
            {"epoch": 7, "avg": 3, "use_averaged_model": True},
        ),
        (["use_averaged_model=true"], ["--avg", "3"], {"avg": 3, "use_averaged_model": True}),
        (
            ["use_averaged_model=true"],
            ["--best", "--avg", "3"],
            {"best": True, "avg": 3, "use_averaged_model": True},
        ),
        (["use_averaged_model=true", "avg=3"], ["--between", "a.pt", "b.pt"], {"between": ("a.pt", "b.pt")}),
        (["use_averaged_model=true"], ["--best-k", "4"], {"best_k": 4}),
        (["use_averaged_model=true"], ["--weights", "ema"], {"weights": "ema"}),
        (["weights=ema"], ["--best-k", "2"], {"best_k": 2, "weights": "ema"}),
        (["weights=ema", "best_k=3"], ["--weights", "swa"], {"best_k": 3, "weights": "swa"}),
    ],
)
def test_options_take_back_what_excludes_them_and_nothing_else(config, arguments, expected):
    assert chosen_by(config, *arguments) == expected


def test_options_that_exclude_each_other_are_refused(capsys):
    for arguments in (["--best", "--best-k", "2"], ["--epoch", "1", "--checkpoints", "a.pt"], ["--avg", "0"]):
        with pytest.raises(SystemExit):
            chosen_by([], *arguments)
    with pytest.raises(ConfigError, match="avg 2 averages epochs, and best_k chooses otherwise"):
        chosen_by([], "--best-k", "3", "--avg", "2")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of three epochs with its configuration, and a way to call the commands on it."""
    best = {"metric": "mAP", "file": "epoch-2.pt", "epoch": 2, "step": 20, "value": 0.7}
    values = {1: 0.6, 2: 0.7, 3: 0.5}
    validations = [
        {"file": f"epoch-{epoch}.pt", "epoch": epoch, "step": 10 * epoch, "value": value}
        for epoch, value in values.items()
    ]
    for epoch in values:
        state = tiny_checkpoint(seed=epoch, epoch=epoch, best=best, validations=validations)
        state["optimizer"] = {"exp_avg": torch.ones(1000)}
        save_checkpoint(epoch_path(tmp_path / "exp", epoch), state)
    config = Config.model_validate({**tiny_config(), "evaluation": {"best_k": 2}})
    (tmp_path / "exp" / "config.yaml").write_text(dump_yaml(config))
    monkeypatch.chdir(tmp_path)

    def call(command, *arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["command", "--exp-dir", "exp", *arguments])
        command.main()

    call.folder = tmp_path / "exp"
    return call


def test_the_file_holds_what_the_configuration_of_the_run_chooses(run):
    run(average)
    path = run.folder / "averaged-best-k2.pt"
    expected = choose_weights(run.folder, WeightChoice(best_k=2))
    state = load_checkpoint(path)
    assert state["averaged"]["files"] == ["epoch-1.pt", "epoch-2.pt"]
    assert state["averaged"]["sha256"] == expected.sha256
    assert state["averaged"]["by_validation"]
    assert "torch" in state["averaged"]["provenance"]
    last = load_checkpoint(run.folder / "epoch-2.pt")
    assert all(tensor.equal(expected.weights[name]) for name, tensor in state["model"].items())
    for key in ("version", "position", "best", "validations", "metrics", "config", "labels", "train_data"):
        assert state[key] == last[key], key
    assert state["optimizer"] == state["scaler"] == state["averages"] == {}


def test_options_choose_other_weights_and_another_file(run, tmp_path):
    run(average, "--avg", "2", "--dest", "other/mean.pt")
    mean = load_checkpoint(tmp_path / "other" / "mean.pt")
    assert mean["averaged"]["files"] == ["epoch-2.pt", "epoch-3.pt"]
    assert not mean["averaged"]["by_validation"]
    for name in ("epoch-9.pt", "other/step-1.pt"):
        with pytest.raises(ConfigError, match="a run would go on from a file of this name"):
            run(average, "--dest", name)


def test_an_old_checkpoint_becomes_an_averaged_one_of_today(run):
    for epoch in (2, 3):
        state = load_checkpoint(run.folder / f"epoch-{epoch}.pt")
        save_checkpoint(run.folder / f"epoch-{epoch}.pt", {**state, "version": 1})
    run(average, "--avg", "2")
    save_checkpoint(run.folder / "today.pt", tiny_checkpoint())
    today = load_checkpoint(run.folder / "today.pt")["version"]
    assert load_checkpoint(run.folder / "averaged-epoch3-avg2.pt")["version"] == today


def test_averaged_files_are_read_like_any_other(run):
    run(average)
    weights = choose_weights(run.folder, WeightChoice(best_k=2)).weights
    tagger = audiotag.load(run.folder / "averaged-best-k2.pt")
    assert all(tensor.equal(weights[name]) for name, tensor in tagger.state_dict().items())
    again = choose_weights(run.folder, WeightChoice(checkpoints=["averaged-best-k2.pt"]))
    assert (again.name, again.by_validation) == ("averaged-best-k2", True)
    assert all(tensor.equal(weights[name]) for name, tensor in again.weights.items())
    # A run's own checkpoints are what they were before.
    assert choose_weights(run.folder, WeightChoice()).name == "epoch3"
    with pytest.raises(CheckpointError, match=r"averaged-best-k2\.pt holds no ema"):
        choose_weights(run.folder, WeightChoice(checkpoints=["averaged-best-k2.pt"], weights="ema"))


def test_export_takes_the_same_options(run):
    config = str(run.folder / "config.yaml")
    run(export, "--config", config, "--dest", "model", "--checkpoints", "epoch-1.pt", "epoch-3.pt")
    chosen = choose_weights(run.folder, WeightChoice(checkpoints=["epoch-1.pt", "epoch-3.pt"]))
    tagger = audiotag.load("model")
    assert all(tensor.equal(chosen.weights[name]) for name, tensor in tagger.state_dict().items())
    info = json.loads((run.folder.parent / "model" / "config.json").read_text())["info"]
    assert info["sha256"] == chosen.sha256 and info["weights"] == chosen.name
