"""What can be a member of an ensemble, and which of a run's weights one takes."""

from __future__ import annotations

import json

import pytest

from audiotag.configensemble import Ensemble
from audiotag.configfile import load_config
from audiotag.errors import CheckpointError, ConfigError, DataError
from audiotag.evaluation.results import write_evaluation
from audiotag.evaluation.scores import Scores
from audiotag.export.package import export_package
from audiotag.prediction.members import find_members
from audiotag.training.checkpoint import save_checkpoint
from tests.tiny import tiny_checkpoint, tiny_config, tiny_labels, tiny_tagger


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a run of two epochs, an evaluation of it and an exported model; where we are."""
    for epoch in (1, 2):
        save_checkpoint(tmp_path / "run" / f"epoch-{epoch}.pt", tiny_checkpoint(epoch, epoch))
    (tmp_path / "run" / "config.yaml").write_text("evaluation: {avg: 2}\n")
    scores = Scores(["a", "b"], [[1, 2, 3], [4, 5, 6]], [[0, 1, 0], [1, 0, 0]])
    write_evaluation(tmp_path / "run" / "eval_eval_epoch2", scores, tiny_labels(), info={"split": "eval"})
    export_package(
        tmp_path / "model",
        weights=tiny_tagger().state_dict(),
        config=tiny_config(),
        labels=tiny_labels(),
        info={},
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(*members, overrides=()):
    return find_members(load_config(None, [f"members={json.dumps(members)}"], Ensemble), overrides)


def test_each_kind_is_found(place):
    paths = ["run/eval_eval_epoch2", "run/eval_eval_epoch2/scores.npz", "run", "run/epoch-1.pt", "model"]
    sources = find(*paths)
    assert [source.kind for source in sources] == ["scores", "scores", "run", "run", "package"]
    assert [source.name for source in sources] == [*paths[:2], "run (epoch2-avg2)", *paths[3:]]
    assert sources[3].choice.checkpoints == ["epoch-1.pt"] and str(sources[3].path) == "run"


def test_a_run_takes_what_its_config_chooses_or_what_is_asked_for(place):
    """A member's own keys replace the run's choice as a whole; options change it where they say so."""
    assert find("run")[0].choice.avg == 2
    assert find({"path": "run", "epoch": 1})[0].choice.model_dump(exclude_defaults=True) == {"epoch": 1}
    [source] = find("run", overrides=["evaluation.avg=1"])
    assert (source.choice.avg, source.name) == (1, "run (epoch2)")
    two = find({"path": "run", "epoch": 1}, {"path": "run", "epoch": 2, "name": "the last"})
    assert [source.name for source in two] == ["run (epoch1)", "the last"]


def test_paths_may_name_variables_of_db_sh(place, monkeypatch):
    monkeypatch.setenv("MODELS", str(place))
    assert find("$MODELS/model")[0].path == place / "model"
    with pytest.raises(ConfigError, match=r"members\.0\.path is \$NOWHERE/x, but NOWHERE is not set"):
        find("$NOWHERE/x")


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        (["nowhere"], DataError, r"members.0.path: nowhere is not there"),
        (["model", "nowhere.npz"], DataError, r"members.1.path: nowhere.npz is not there"),
        (["."], DataError, r"holds no scores.npz \(evaluation\), no epoch-<n>.pt \(run\) and no model"),
        (["run", "run"], ConfigError, r"members.1.path: run is a member already, as run \(epoch2-avg2\)"),
        (
            [{"path": "run", "name": "x"}, {"path": "model", "name": "x"}],
            ConfigError,
            "members.1: two members are called x",
        ),
        ([{"path": "model", "epoch": 1}], ConfigError, r"members.0.epoch chooses among the weights of a run"),
        ([{"path": "run/epoch-1.pt", "best": True}], ConfigError, "members.0.best chooses among"),
        ([{"path": "run", "valid_scores": "x"}], ConfigError, "members.0.valid_scores: run is a model"),
        (
            [{"path": "run/eval_eval_epoch2", "valid_scores": "model"}],
            ConfigError,
            "members.0.valid_scores: model is no score file",
        ),
        ([{"path": "run", "epoch": 3}], CheckpointError, "run has no checkpoint of epoch 3"),
        ([{"path": "run", "epok": 3}], ConfigError, "unknown key 'members.0.epok'"),
        ([], ConfigError, "members: List should have at least 1 item"),
    ],
)
def test_what_cannot_be_a_member(place, members, error, message):
    with pytest.raises(error, match=message):
        find(*members)
