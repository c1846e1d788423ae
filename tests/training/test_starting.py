"""Runs that start from a model: through real commands, alone and in two processes, and again after a stop."""

from __future__ import annotations

import logging
import re
import shutil

import pytest
import torch
import yaml

from audiotag.config import Config
from audiotag.configinit import Init
from audiotag.distributed import World
from audiotag.errors import CheckpointError, ConfigError
from audiotag.export.package import TrainedModel
from audiotag.interop.ast import export_ast
from audiotag.interop.espnet import export_espnet
from audiotag.tagger import build_tagger
from audiotag.training.checkpoint import save_checkpoint
from audiotag.training.starting import begin_with, check_same_start, locate_start, read_start
from tests.export.models import small_model
from tests.interop.asts import random_deit
from tests.tiny import TINY, tiny_checkpoint, tiny_config, tiny_labels, tiny_tagger

WORLD = World(0, 0, 1, torch.device("cpu"))
# Weights stay what they are but for rounding: what is trained shows what it started from.
STILL = ("optimizer.lr=1e-12", "optimizer.weight_decay=0", "training.epochs=1")


def config_with(**init):
    return Config.model_validate({**TINY, "init": init})


def fresh(config, labels=None):
    torch.manual_seed(5)
    sections = (getattr(config, name).model_dump(mode="json") for name in ("features", "encoder"))
    return build_tagger(*sections, labels or tiny_labels())


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "epoch-1.pt"
    save_checkpoint(path, tiny_checkpoint(seed=9))
    return path


def test_a_model_is_read_and_given(checkpoint, caplog, monkeypatch):
    monkeypatch.setenv("MY_MODEL", str(checkpoint))
    config = config_with(model="$MY_MODEL")
    start = read_start(config, WORLD)
    tagger = fresh(config)
    with caplog.at_level(logging.INFO):
        origin = begin_with(start, tagger, config)
    for name, value in tiny_tagger(9).state_dict().items():
        assert torch.equal(tagger.state_dict()[name], value), name
    assert (origin["model"], origin["path"], origin["format"]) == ("$MY_MODEL", str(checkpoint), "audiotag")
    assert len(origin["sha256"]["epoch-1.pt"]) == 64
    assert origin["taken"] == ["encoder (31 tensors)", "head (3 classes)"]
    assert f"starting from {checkpoint} (audiotag): taken: encoder (31 tensors), head" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert read_start(config_with(), WORLD) is None


def test_what_weights_do_not_tell_comes_from_the_configuration(tmp_path):
    model = TrainedModel(tiny_tagger(9), "bce", tiny_config())
    # Two heads 8 wide, as no published model has them; 8 rows of 4 patches.
    config = config_with(model=str(export_ast(tmp_path, model).rename(tmp_path / "nameless.pth")))
    tagger = fresh(config)
    origin = begin_with(read_start(config, WORLD), tagger, config)
    assert origin["adapted"] == []
    assert torch.equal(tagger.encoder.pos_embed, tiny_tagger(9).encoder.pos_embed)
    # It does not name its classes, so the head is fresh.
    assert origin["fresh"] == ["head with its LayerNorm (the model does not name its classes)"]
    assert torch.equal(tagger.head.weight, fresh(config).head.weight)


def test_what_a_beats_of_espnet_does_not_tell_comes_from_the_configuration(tmp_path):
    model = small_model("beats")
    file = export_espnet(tmp_path, model)
    path = tmp_path / "config.yaml"
    content = yaml.safe_load(path.read_text())
    for name in ("deep_norm", "max_distance"):
        del content["encoder_conf"]["beats_config"][name]
    path.write_text(yaml.safe_dump(content))
    config = Config.model_validate({**model.config, "init": {"model": str(file), "head": "keep"}})
    tagger = fresh(config, model.tagger.labels)
    begin_with(read_start(config, WORLD), tagger, config)
    for name, value in model.tagger.state_dict().items():
        assert torch.equal(tagger.state_dict()[name], value), name


def test_imagenet_weights(tmp_path):
    torch.save({"model": random_deit(14, width=16)}, tmp_path / "deit.pth")
    config = config_with(model=str(tmp_path / "deit.pth"))
    origin = begin_with(read_start(config, WORLD), fresh(config), config)
    assert origin["format"] == "deit"
    assert origin["adapted"] == [
        "position embedding from 14 x 14 to 8 x 4 patches (frequency cropped, time cropped)"
    ]


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (
            {"mean": -3.0, "std": 4.0},
            "mean -3 and deviation 4, those that .* mean -4.267739 and deviation 4.56",
        ),
        ({"normalization": "none"}, "normalised by nothing, those that"),
        ({"preset": "beats128"}, "features.preset is beats128, .* was trained with ast128"),
    ],
)
def test_other_features_are_warned_of(checkpoint, caplog, features, words):
    tree = {**TINY, "features": {**TINY["features"], **features}, "init": {"model": str(checkpoint)}}
    config = Config.model_validate(tree)
    with caplog.at_level(logging.WARNING):
        begin_with(read_start(config, WORLD), fresh(config), config)
    [record] = caplog.records
    assert re.search(words, record.getMessage())


def test_a_place_where_nothing_is(tmp_path, monkeypatch):
    with pytest.raises(
        CheckpointError, match=r"init\.model: there is no file.*--set init\.model=null starts"
    ):
        locate_start(Init(model=str(tmp_path / "gone.pth")))
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(ConfigError, match=r"NOWHERE is not set.*--set init\.model=null starts from random"):
        locate_start(Init(model="$NOWHERE"))


def test_a_changed_start_is_refused_and_a_lost_one_is_not(checkpoint, monkeypatch, caplog):
    config = config_with(model=str(checkpoint))
    origin = begin_with(read_start(config, WORLD), fresh(config), config)
    check_same_start(config.init, origin, allow_changes=False)
    check_same_start(config.init, None, allow_changes=False)
    save_checkpoint(checkpoint, tiny_checkpoint(seed=10))
    with pytest.raises(ConfigError, match=r"no longer what the run started from .*--restart"):
        check_same_start(config.init, origin, allow_changes=False)
    with caplog.at_level(logging.WARNING):
        check_same_start(config.init, origin, allow_changes=True)
    assert "no longer what the run started from" in caplog.text
    checkpoint.unlink()
    check_same_start(config.init, origin, allow_changes=False)
    monkeypatch.delenv("NOWHERE", raising=False)
    check_same_start(Init(model="$NOWHERE"), origin, allow_changes=False)


def weights_begun_with(init):
    config = config_with(**init)
    tagger = fresh(config)
    origin = begin_with(read_start(config, WORLD), tagger, config)
    return tagger.head.weight, origin


@pytest.fixture
def run(tmp_path):
    """The folder of a run of two epochs, the first of them the best, that keeps an EMA and takes it."""
    settings = {"training": {"epochs": 2, "ema": {}}, "evaluation": {"avg": 2}}
    validations = [{"file": f"epoch-{n}.pt", "epoch": n, "step": n, "value": 1 / n} for n in (1, 2)]
    for epoch in (1, 2):
        state = tiny_checkpoint(seed=epoch, epoch=epoch)
        state["config"] = {**state["config"], **settings}
        state["averages"] = {"ema": {"samples": 1, "weights": tiny_tagger(epoch + 10).state_dict()}}
        state["best"] = {"metric": "mAP", "value": 1.0, "epoch": 1, "step": 1, "file": "epoch-1.pt"}
        save_checkpoint(tmp_path / f"run/epoch-{epoch}.pt", {**state, "validations": validations[:epoch]})
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("choice", "seeds", "name"),
    [
        ({}, (1, 2), "epoch2-avg2"),
        ({"epoch": 1}, (1,), "epoch1"),
        ({"best": True}, (1,), "best1"),
        ({"best_k": 2}, (1, 2), "best-k2"),
        ({"checkpoints": ["epoch-2.pt"]}, (2,), "epoch2"),
        ({"weights": "ema"}, (12,), "epoch2-ema"),
        ({"weights": "ema", "avg": 2}, (11, 12), "epoch2-avg2-ema"),
    ],
)
def test_any_weights_of_a_run(run, choice, seeds, name):
    """By themselves those of its config, with any key those of the keys; going on asks for the same files."""
    found, origin = weights_begun_with({"model": str(run), **choice})
    expected = sum(tiny_tagger(seed).head.weight for seed in seeds) / len(seeds)
    torch.testing.assert_close(found, expected)
    assert (origin["weights"], origin["format"]) == (name, "audiotag")
    assert origin["sha256"].keys() <= {"epoch-1.pt", "epoch-2.pt"}
    section = Init(model=str(run), **choice)
    # The completed configuration of a run names every key, and means the same.
    assert (
        Init.model_validate(section.model_dump()).chosen_keys
        == section.chosen_keys
        == [key for key in Init.model_fields if key in choice]
    )
    check_same_start(section, origin, allow_changes=False)
    save_checkpoint(run / next(iter(origin["sha256"])), tiny_checkpoint(seed=30))
    with pytest.raises(ConfigError, match="no longer what the run started from"):
        check_same_start(section, origin, allow_changes=False)


def test_a_checkpoint_has_the_trained_weights_and_its_averages(run):
    file = str(run / "epoch-2.pt")
    for choice, seed in (({}, 2), ({"weights": "model"}, 2), ({"weights": "ema"}, 12)):
        found, origin = weights_begun_with({"model": file, **choice})
        assert torch.equal(found, tiny_tagger(seed).head.weight)
        check_same_start(Init(model=file, **choice), origin, allow_changes=False)


@pytest.mark.parametrize(
    ("model", "choice", "words"),
    [
        ("epoch-2.pt", {"avg": 2}, r"init.avg chooses among the weights of a run, but .*epoch-2.pt is not"),
        ("../there.pth", {"weights": "ema"}, r"init.weights chooses among .*there.pth is not the folder"),
        (
            ".",
            {"weights": "swa"},
            r"init.model is the run .*run, of whose weights none.* training.swa is not",
        ),
        (
            ".",
            {"epoch": 3},
            r"init.model is the run .* \(init.epoch, called .*: .*run has no checkpoint of epoch 3",
        ),
        (".", {"best_k": 9}, r"\(init.best_k, called evaluation's in what follows\): .*evaluation.best_k"),
        ("../planned", {}, r"none can be taken: .*planned holds no epoch-<n>.pt; stage 5 makes them"),
    ],
)
def test_weights_that_are_not_there(run, model, choice, words):
    (run.parent / "there.pth").touch()
    (run.parent / "planned").mkdir()
    (run.parent / "planned/config.yaml").write_text("title: a plan\n")
    with pytest.raises((ConfigError, CheckpointError), match=words):
        read_start(config_with(model=str((run / model).resolve()), **choice), WORLD)


def test_a_choice_of_no_model_is_refused():
    with pytest.raises(ValueError, match="best is set, but model, which it is about, is not"):
        config_with(best=True)
    with pytest.raises(ValueError, match="best and epoch exclude each other"):
        config_with(model="exp/run", best=True, epoch=2)


@pytest.mark.slow
def test_runs_start_from_it_and_go_on_without_it(recipe, finished):
    start = recipe.folder / "start.pt"
    shutil.copy(finished / "epoch-4.pt", start)
    begun = torch.load(start, weights_only=True)["model"]
    for name, processes in (("started", 1), ("started2", 2)):
        done = recipe.train(name, "init.model=start.pt", *STILL, processes=processes)
        assert done.returncode == 0, done.stderr
        assert "(audiotag): taken: encoder (31 tensors), head (10 classes)" in done.stderr
        state = torch.load(recipe.exp(name) / "epoch-1.pt", weights_only=True)
        for key, value in begun.items():
            torch.testing.assert_close(state["model"][key], value, rtol=0, atol=1e-6)
        assert state["init"]["model"] == "start.pt"
        assert state["init"]["path"] == str(start)
    first = state["init"]
    start.unlink()
    more = recipe.train("started", "init.model=start.pt", *STILL[:2], "training.epochs=2")
    assert more.returncode == 0, more.stderr
    again = torch.load(recipe.exp("started") / "epoch-2.pt", weights_only=True)
    assert again["init"] == first
    # Another model behind the same name.
    shutil.copy(finished / "epoch-3.pt", start)
    other = recipe.train("started", "init.model=start.pt", *STILL[:2], "training.epochs=3")
    assert other.returncode == ConfigError.exit_code
    assert "start.pt is no longer what the run started from" in other.stderr
    start.unlink()
    anew = recipe.train("started", "init.model=start.pt", *STILL, options=("--restart",))
    assert anew.returncode == CheckpointError.exit_code
    assert "init.model: there is no file or folder start.pt" in anew.stderr
    assert (recipe.exp("started") / "epoch-2.pt").exists()
