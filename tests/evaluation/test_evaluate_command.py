"""What the evaluate command records of the data that it scores: coverage, selection, normalisation."""

from __future__ import annotations

import json

import pytest

from audiotag.bin import evaluate
from audiotag.configevaluation import WeightChoice
from audiotag.errors import DataError
from audiotag.training.averaging import averaged_checkpoint, choose_weights
from audiotag.training.checkpoint import load_checkpoint, save_checkpoint
from tests.data_pipeline.manifests import noise_clips
from tests.tiny import tiny_checkpoint, tiny_labels

COUNTS = {"listed": 6, "present": 6, "skipped": {}, "seconds": 1.2}
COVERAGE = {"train": COUNTS, "valid": {**COUNTS, "same_as": "eval"}, "eval": COUNTS, "notes": {"task": "x"}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that evaluates one untrained checkpoint whose run was validated on eval."""
    manifests = tmp_path / "data" / "manifests"
    manifests.mkdir(parents=True)
    for split in ("valid", "eval"):
        noise_clips(tmp_path / "audio", 6, num_classes=3).rename(manifests / f"cuts_{split}.jsonl")
    tiny_labels().write(manifests / "labels.csv")
    (manifests / "coverage.json").write_text(json.dumps(COVERAGE))
    best = {"epoch": 1, "metric": "mAP", "value": 0.5}
    save_checkpoint(tmp_path / "exp" / "epoch-1.pt", {**tiny_checkpoint(best=best), "coverage": COVERAGE})
    (tmp_path / "config.yaml").write_text("features: {storage: on_the_fly}\ndata: {num_workers: 0}\n")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> dict:
        given = ["evaluate", "--config", "config.yaml", "--exp-dir", "exp", "--device", "cpu", *arguments]
        monkeypatch.setattr("sys.argv", given)
        evaluate.main()
        return {
            path.parent.name: json.loads(path.read_text())["info"]
            for path in (tmp_path / "exp").glob("eval_*/metrics.json")
        }

    return run


def test_a_choice_made_on_eval_is_recorded(run):
    infos = run("--best", "--split", "valid", "--split", "eval")
    assert set(infos) == {"eval_valid_best1", "eval_eval_best1"}
    assert all(info["selected_on"] == "eval" and info["coverage"] == COVERAGE for info in infos.values())
    assert run("--epoch", "1")["eval_eval_epoch1"]["selected_on"] is None


def test_a_fold_is_not_scored_by_the_model_of_another_one(run, tmp_path):
    path = tmp_path / "exp" / "epoch-1.pt"
    state = {key: value for key, value in load_checkpoint(path).items() if key not in ("format", "version")}
    state["config"]["corpus"] = {"name": "esc50", "fold": 2}
    save_checkpoint(path, state)
    coverage = tmp_path / "data" / "manifests" / "coverage.json"
    coverage.write_text(json.dumps({**COVERAGE, "notes": {"fold": 1}}))
    with pytest.raises(DataError, match="data holds fold 1, the model was trained for fold 2"):
        run()
    coverage.write_text(json.dumps({**COVERAGE, "notes": {"fold": 2}}))
    assert "eval_eval_epoch1" in run()


def test_data_that_the_model_does_not_expect_are_said_once_for_each_split(run, tmp_path, capsys):
    """The statistics are those of the model's front end, whatever the configuration of today says."""
    stats = tmp_path / "data" / "stats" / "ast128_64_on_the_fly" / "stats.json"
    stats.parent.mkdir(parents=True)
    near, far = {"mean": -4.2, "std": 4.6}, {"mean": -9.0, "std": 4.6}
    stats.write_text(json.dumps({"train": near, "valid": far, "eval": near}))
    infos = run("--split", "valid", "--split", "eval")
    [line] = [line for line in capsys.readouterr().err.splitlines() if "normalises" in line]
    assert "the features of valid have mean -9 and standard deviation 4.6" in line
    assert infos["eval_eval_epoch1"]["coverage"]["valid"]["features"] == far


def test_the_end_of_a_run_that_was_stopped_by_eval_was_chosen_on_it(run, tmp_path):
    """The number of epochs was then found on the evaluation clips."""
    path = tmp_path / "exp" / "epoch-1.pt"
    state = {key: value for key, value in load_checkpoint(path).items() if key not in ("format", "version")}
    state["config"]["training"].update(epochs=5, patience=2)
    save_checkpoint(path, state)
    info = run()["eval_eval_epoch1"]
    assert info["selected_on"] == "eval"
    assert info["weights_in_words"].endswith("epoch-1.pt, with which validation ended training early")
    # An epoch that was named was chosen by whoever named it.
    assert run("--epoch", "1")["eval_eval_epoch1"]["selected_on"] is None
    mean = averaged_checkpoint(choose_weights(tmp_path / "exp", WeightChoice()))
    save_checkpoint(tmp_path / "exp" / "averaged-epoch1.pt", mean)
    infos = run("--checkpoints", "averaged-epoch1.pt")
    assert infos["eval_eval_averaged-epoch1"]["selected_on"] == "eval"
    for training in ({"epochs": 1}, {"epochs": 5, "patience": None}):
        state["config"]["training"].update(training)
        save_checkpoint(path, state)
        assert run()["eval_eval_epoch1"]["selected_on"] is None


def test_how_the_model_was_trained_and_what_it_is_of_are_recorded(run, tmp_path):
    path = tmp_path / "exp" / "epoch-1.pt"
    state = {key: value for key, value in load_checkpoint(path).items() if key not in ("format", "version")}
    state["position"]["world_size"] = 4
    state["provenance"] = {"git": "0123", "torch": "2.11"}
    save_checkpoint(path, state)
    info = run()["eval_eval_epoch1"]
    assert info["training"] == {
        "processes": 4,
        "provenance": {"git": "0123", "torch": "2.11"},
        "init": None,
    }
    assert (info["kind"], info["between"], info["averaged"]) == ("model", False, {})
    chosen = choose_weights(tmp_path / "exp", WeightChoice())
    save_checkpoint(tmp_path / "exp" / "averaged-a.pt", averaged_checkpoint(chosen))
    info = run("--checkpoints", "averaged-a.pt")["eval_eval_averaged-a"]
    assert info["weights_in_words"] == "weights of averaged-a.pt (trained weights of epoch-1.pt)"
    origin = info["averaged"]["averaged-a.pt"]
    assert (origin["name"], origin["files"], origin["sha256"]) == ("epoch1", ["epoch-1.pt"], chosen.sha256)


def test_the_weights_that_validation_measured_are_scored(run, tmp_path, capsys):
    path = tmp_path / "exp" / "epoch-1.pt"
    state = {key: value for key, value in load_checkpoint(path).items() if key not in ("format", "version")}
    state["config"]["training"].update(ema={"decay": 0.9, "warmup": True}, validate_weights="ema")
    kept = {name: tensor.double() for name, tensor in state["model"].items()}
    save_checkpoint(path, {**state, "averages": {"ema": {"samples": 3, "weights": kept}}})
    info = run("--best")["eval_eval_best1-ema"]
    assert info["weights_in_words"] == "EMA weights of epoch-1.pt, chosen by validation"
    assert "measured" not in capsys.readouterr().err
    assert "eval_eval_best1" in run("--best", "--weights", "model")
    assert "validation, which chose the checkpoints, measured their EMA weights" in capsys.readouterr().err
