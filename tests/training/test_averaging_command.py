"""The options that choose weights, the average command, and what reads its file."""

from __future__ import annotations

import argparse
import json
import os

import numpy as np
import pytest
import torch

import audiotag
from audiotag.bin import average, export
from audiotag.commandline import add_config_arguments
from audiotag.config import Config
from audiotag.configevaluation import WeightChoice
from audiotag.configfile import dump_yaml, load_config
from audiotag.errors import CheckpointError, ConfigError
from audiotag.evaluation.conditions import weights_in_words
from audiotag.evaluation.evaluationsection import origins
from audiotag.evaluation.results import write_evaluation
from audiotag.evaluation.scores import Scores
from audiotag.export.thresholds import find_thresholds
from audiotag.labels import LabelTable
from audiotag.seal import unsealed
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
    "weights": None,
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
    for key in ("version", "position", "best", "validations", "config", "labels", "train_data"):
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


def test_metrics_of_other_weights_are_not_exported(run):
    config = str(run.folder / "config.yaml")

    def exported(*arguments: str) -> dict:
        run(export, "--config", config, "--dest", "model", *arguments)
        return json.loads((run.folder.parent / "model" / "config.json").read_text())["info"]

    assert exported("--epoch", "3")["last_epoch_metrics"] == {"mAP": 0.5}
    assert exported("--best")["weights_in_words"] == "trained weights of epoch-2.pt, chosen by validation"
    run(average)
    for arguments in (("--best-k", "2"), ("--checkpoints", "averaged-best-k2.pt")):
        assert "last_epoch_metrics" not in exported(*arguments)
    assert load_checkpoint(run.folder / "averaged-best-k2.pt")["metrics"] == {}
    info = exported("--checkpoints", "averaged-best-k2.pt")
    assert info["averaged"]["averaged-best-k2.pt"]["files"] == ["epoch-1.pt", "epoch-2.pt"]
    # The trained weights of a run whose EMA was validated.
    with_ema(run.folder / "epoch-3.pt")
    assert exported("--epoch", "3")["last_epoch_metrics"] == {"mAP": 0.5}
    assert "last_epoch_metrics" not in exported("--epoch", "3", "--weights", "model")


def with_ema(path):
    """Give a checkpoint an EMA, which validation measured."""
    state = {key: value for key, value in load_checkpoint(path).items() if key not in ("format", "version")}
    state["config"]["training"].update(ema={"decay": 0.9, "warmup": True}, validate_weights="ema")
    kept = {name: tensor.double() + 1 for name, tensor in state["model"].items()}
    save_checkpoint(path, {**state, "averages": {"ema": {"samples": 3, "weights": kept}}})


def test_weights_that_did_not_choose_the_checkpoint_are_warned_of(run, capsys):
    for epoch in (1, 2, 3):
        with_ema(run.folder / f"epoch-{epoch}.pt")
    run(average, "--best-k", "2")
    run(average, "--epoch", "2", "--weights", "model", "--dest", "other.pt")
    run(average, "--checkpoints", "averaged-best-k2-ema.pt", "--dest", "again.pt")
    assert "validation, which chose the checkpoints" not in capsys.readouterr().err
    run(average, "--best", "--weights", "model")
    expected = (
        "the trained weights are taken, but validation, which chose the checkpoints, measured their EMA"
    )
    assert expected in capsys.readouterr().err
    words = weights_in_words(choose_weights(run.folder, WeightChoice(best=True, weights="model")).origin)
    assert words == "trained weights of epoch-2.pt, chosen by validation of the EMA weights"
    words = weights_in_words(choose_weights(run.folder, WeightChoice(best=True)).origin)
    assert words == "EMA weights of epoch-2.pt, chosen by validation"


def test_averaged_files_are_told_by_what_they_are_of(run):
    run(average)
    run(average, "--avg", "2")
    first, second = "averaged-best-k2.pt", "averaged-epoch3-avg2.pt"

    def words(*files: str) -> str:
        return weights_in_words(choose_weights(run.folder, WeightChoice(checkpoints=list(files))).origin)

    of_first = "mean of the trained weights of epoch-1.pt, epoch-2.pt, chosen by validation"
    assert words(first) == f"weights of {first} ({of_first})"
    of_second = "mean of the trained weights of epoch-2.pt, epoch-3.pt"
    assert (
        words(first, second) == f"mean of the trained weights of {first} ({of_first}), {second} ({of_second})"
    )
    run(average, "--checkpoints", first, second, "--dest", str(run.folder / "averaged-both.pt"))
    assert words("averaged-both.pt") == f"weights of averaged-both.pt ({words(first, second)})"
    both = choose_weights(run.folder, WeightChoice(checkpoints=["averaged-both.pt"]))
    assert both.by_validation
    lines = origins({"averaged": both.averaged})
    digest = both.averaged["averaged-both.pt"]["sha256"][first]
    assert lines[0].startswith(f"- `averaged-both.pt` was made of: `{first}` (sha256 `{digest}`)")
    assert len(lines) == 3 and lines[1].startswith(f"- `{first}` was made of: `epoch-1.pt` (sha256")


def test_averaged_files_of_earlier_versions_are_told_by_their_names(run):
    run(average)
    path = run.folder / "averaged-best-k2.pt"
    old = {"name": "best-k2-ema", "files": ["a.pt", "b.pt"], "sha256": {}, "by_validation": True}
    state = {key: value for key, value in load_checkpoint(path).items() if key not in ("format", "version")}
    for record, expected in (
        (old, "mean of the EMA weights of a.pt, b.pt, chosen by validation"),
        (
            {**old, "name": "between-a-b", "by_validation": False},
            "mean of the weights over all updates behind a.pt up to b.pt",
        ),
        ({**old, "name": "best-k2"}, "mean of the trained weights of a.pt, b.pt, chosen by validation"),
    ):
        save_checkpoint(path, {**state, "averaged": record})
        chosen = choose_weights(run.folder, WeightChoice(checkpoints=[path.name]))
        assert weights_in_words(chosen.origin) == f"weights of {path.name} ({expected})"


def evaluated(folder, split, chosen, seed, *, age_s=0):
    """Write an evaluation of chosen weights, of some time ago; its thresholds."""
    known = {"split": split, "weights": chosen.name, **chosen.origin}
    write_evaluation(folder, few_scores(seed), LabelTable.from_rows(chosen.checkpoint["labels"]), info=known)
    at = folder.stat().st_mtime - age_s
    os.utime(folder / "metrics.json", (at, at))
    return (folder / "thresholds.json").read_bytes()


def few_scores(seed):
    """Scores of a few clips of three classes."""
    random = np.random.default_rng(seed)
    labels = random.random((20, 3)) < 0.4
    return Scores([f"clip{row}" for row in range(20)], random.standard_normal((20, 3)) + labels, labels)


def test_the_thresholds_of_the_same_weights_are_packed(run):
    config, packed = str(run.folder / "config.yaml"), run.folder.parent / "model" / "thresholds.json"

    def exported(*arguments: str) -> bytes | None:
        run(export, "--config", config, "--dest", "model", "--epoch", "3", *arguments)
        return packed.read_bytes() if packed.exists() else None

    assert exported() is None
    chosen = choose_weights(run.folder, WeightChoice(epoch=3))
    other = choose_weights(run.folder, WeightChoice(epoch=2))
    of_eval = evaluated(run.folder / "eval_eval_epoch3", "eval", chosen, 1)
    evaluated(run.folder / "eval_valid_epoch2", "valid", other, 2)
    assert exported() == of_eval
    assert json.loads(packed.read_bytes())["tuned_on"] == "eval"
    old = evaluated(run.folder / "eval_valid_a", "valid", chosen, 3, age_s=100)
    assert exported() == old
    new = evaluated(run.folder / "eval_valid_epoch3", "valid", chosen, 4, age_s=50)
    assert exported() == new != old
    info = json.loads((packed.parent / "config.json").read_text())["info"]
    assert info["thresholds"]["evaluation"] == "eval_valid_epoch3"
    assert info["thresholds"]["tuned_on"] == "valid"
    # Damaged ones are named and passed over.
    (run.folder / "eval_valid_epoch3" / "thresholds.json").write_text("{")
    assert exported() == old
    # Other weights of the same file, and what is not there any more.
    with_ema(run.folder / "epoch-3.pt")
    assert exported() is None
    chosen = choose_weights(run.folder, WeightChoice(epoch=3))
    of_ema = evaluated(run.folder / "eval_valid_epoch3-ema", "valid", chosen, 5)
    assert exported() == of_ema
    assert exported("--weights", "model") is None


def test_evaluations_that_do_not_say_which_weights_they_are_of_are_known_by_name(run):
    chosen = choose_weights(run.folder, WeightChoice(epoch=3))
    of_old = evaluated(run.folder / "eval_valid_epoch3", "valid", chosen, 1)
    path = run.folder / "eval_valid_epoch3" / "metrics.json"
    content = unsealed(json.loads(path.read_text()))
    for key in ("kind", "between", "averaged"):
        del content["info"][key]
    path.write_text(json.dumps(content))
    labels = LabelTable.from_rows(chosen.checkpoint["labels"])
    assert find_thresholds(run.folder, chosen.origin, labels).content == of_old
    assert find_thresholds(run.folder, {**chosen.origin, "name": "epoch3-ema"}, labels) is None
