"""The evaluate command on clips longer than what the model hears: windows, precision, what is recorded."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

from audiotag.bin import evaluate
from audiotag.config import Config
from audiotag.distributed import World
from audiotag.encoders.ast import Ast
from audiotag.errors import AudiotagError, CheckpointError, ConfigError, DataError
from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.scores import Scores
from audiotag.evaluation.scoring import gather_scores, score_batches
from audiotag.training.checkpoint import load_checkpoint, save_checkpoint
from audiotag.training.loaders import validation_data
from tests.data_pipeline.manifests import record, write_manifest
from tests.tiny import TINY, tiny_checkpoint, tiny_labels, tiny_tagger

# Seconds; the model hears 0.64.
DURATIONS = (0.5, 0.64, 1.0, 2.0, 2.5, 0.9)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A recipe's folder with one untrained checkpoint and an evaluation split; the place where we are."""
    rng = np.random.default_rng(0)
    records = []
    for number, duration in enumerate(DURATIONS):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(round(duration * 16000)), 16000)
        records.append(record(f"clip_{number}", duration, str(number % 3), str(path)))
    manifests = tmp_path / "data" / "manifests"
    write_manifest(manifests / "cuts_eval.jsonl", records)
    tiny_labels().write(manifests / "labels.csv")
    counts = {"listed": 6, "present": 6, "skipped": {}, "seconds": sum(DURATIONS)}
    (manifests / "coverage.json").write_text(json.dumps({"train": counts, "eval": counts}))
    save_checkpoint(tmp_path / "exp" / "epoch-1.pt", tiny_checkpoint())
    (tmp_path / "config.yaml").write_text("features: {storage: on_the_fly}\ndata: {num_workers: 0}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch):
    """A function that evaluates with some settings: the scores, and what metrics.json says of them."""

    def run(*settings: str) -> tuple[Scores, dict]:
        overrides = [word for setting in settings for word in ("--set", setting)]
        given = ["evaluate", "--config", "config.yaml", "--exp-dir", "exp", "--device", "cpu", *overrides]
        monkeypatch.setattr("sys.argv", given)
        before = {path: path.stat().st_mtime_ns for path in folder.glob("exp/eval_*/metrics.json")}
        evaluate.main()
        [path] = [
            path
            for path in folder.glob("exp/eval_*/metrics.json")
            if before.get(path) != path.stat().st_mtime_ns
        ]
        info = json.loads(path.read_text())["info"]
        return Scores.load(path.parent / "scores.npz"), {**info, "folder": path.parent.name}

    return run


def change_checkpoint(folder, change):
    """Write the checkpoint anew."""
    path = folder / "exp" / "epoch-1.pt"
    state = load_checkpoint(path)
    change(state)
    save_checkpoint(path, {key: value for key, value in state.items() if key not in ("format", "version")})


def test_what_was_scored_and_how_is_recorded(run, folder, capsys):
    scores, info = run()
    assert scores.ids == [f"clip_{number}" for number in range(6)]
    assert "4 of 6 clips of eval are longer than 0.64 s" in capsys.readouterr().err
    assert info["folder"] == "eval_eval_epoch1"
    assert info["weights"] == "epoch1"
    assert info["weights_in_words"] == "trained weights of epoch-1.pt"
    content = (folder / "exp" / "epoch-1.pt").read_bytes()
    assert info["sha256"] == {"epoch-1.pt": hashlib.sha256(content).hexdigest()}
    assert info["precision"] == "float32" and info["device"] == "cpu" and info["processes"] == 1
    assert info["windows"] is None and info["batch_size"] == 32 and info["batch_independent"] is True
    assert info["clips_per_s"] > 0
    assert info["coverage"]["eval"]["present"] == 6
    assert {"command", "torch", "git"} <= info["provenance"].keys()


def test_windows_hear_all_of_long_clips(run, capsys):
    usual, _ = run()
    capsys.readouterr()
    scores, info = run("evaluation.window_s=0.64", "evaluation.hop_s=0.5", "evaluation.batch_size=3")
    assert "longer than" not in capsys.readouterr().err
    assert info["folder"] == "eval_eval_epoch1-windows0.64-hop0.5"
    assert info["windows"] == {
        "window_s": 0.64,
        "hop_s": 0.5,
        "mean": "sigmoid",
        "clips_in_windows": 4,
        "windows": 1 + 1 + 2 + 4 + 5 + 2,
    }
    assert scores.ids == usual.ids
    same = np.abs(scores.logits - usual.logits).max(axis=1) < 1e-5
    assert same.tolist() == [True, True, False, False, False, False]
    # Windows that are longer than what the model hears are of no use, and it is said.
    run("evaluation.window_s=0.9")
    assert "4 of 6 clips of eval are longer than 0.64 s" in capsys.readouterr().err
    half = run("evaluation.window_s=0.64")[1]["windows"]
    assert half["hop_s"] == 0.32


def test_a_long_clip_is_the_mean_of_cuts_of_it(run, folder):
    """Each window alone, as a clip of its own, and the mean of their probabilities."""
    scores, _ = run("evaluation.window_s=0.5", "evaluation.hop_s=0.4")
    path = folder / "data" / "manifests" / "cuts_eval.jsonl"
    cut = json.loads(path.read_text().splitlines()[4])
    starts = [0.0, 0.4, 0.8, 1.2, 1.6, 2.0]
    parts = [{**cut, "id": f"part_{start}", "start": start, "duration": 0.5} for start in starts]
    write_manifest(path, parts)
    windows, _ = run()
    share = (1 / (1 + np.exp(-windows.logits.astype(np.float64)))).mean(0)
    np.testing.assert_allclose(scores.logits[4], np.log(share / (1 - share)), atol=1e-5)


def test_probabilities_are_those_of_the_loss_of_the_model(run, folder):
    change_checkpoint(folder, lambda state: state["config"].update(loss={"name": "ce"}))
    windows = ("evaluation.window_s=0.64", "loss.name=bce")
    for settings in ((), windows, (*windows, "evaluation.window_mean=max")):
        logits = run(*settings)[0].logits.astype(np.float64)
        np.testing.assert_allclose((1 / (1 + np.exp(-logits))).sum(axis=1), 1.0, atol=1e-5)
    assert run(*windows)[1]["windows"]["mean"] == "softmax"
    folder_name = run(*windows, "evaluation.window_mean=max")[1]["folder"]
    assert folder_name == "eval_eval_epoch1-windows0.64-hop0.32-max"


@pytest.mark.parametrize("section", [{}, {"window_s": 0.64, "window_mean": "logits"}])
def test_validation_while_training_measures_what_this_command_does(run, folder, section):
    """On the same weights, with batches of another size."""
    manifests = folder / "data" / "manifests"
    shutil.copy(manifests / "cuts_eval.jsonl", manifests / "cuts_valid.jsonl")
    run(*(f"evaluation.{key}={value}" for key, value in section.items()))
    [path] = folder.glob("exp/eval_*/metrics.json")
    evaluated = json.loads(path.read_text())["metrics"]
    config = Config.model_validate(
        {**TINY, "data": {"num_workers": 0}, "evaluation": {**section, "batch_size": 4}}
    )
    config.features.storage = "on_the_fly"
    world = World(0, 0, 1, torch.device("cpu"))
    loader = validation_data(config, folder / "data", tiny_labels(), world)
    scores = gather_scores(score_batches(tiny_tagger(), loader(), device=world.device), world)
    validated = compute_metrics(scores.logits, scores.labels, ids=scores.ids).summary
    assert {"mAP", "mAUC", "loss"} <= evaluated.keys() & validated.keys()
    for name in evaluated.keys() & validated.keys():
        assert evaluated[name] == pytest.approx(validated[name], abs=1e-6), name


@pytest.mark.parametrize("settings", [[], ["evaluation.window_s=0.64"]])
def test_labels_may_be_unknown(run, folder, settings):
    path = folder / "data" / "manifests" / "cuts_eval.jsonl"
    cuts = [json.loads(line) for line in path.read_text().splitlines()]
    for number in (0, 4):
        cuts[number]["supervisions"][0]["custom"]["unlabelled"] = "2"
    write_manifest(path, cuts)
    scores, _ = run(*settings)
    assert np.argwhere(np.isnan(scores.labels)).tolist() == [[0, 2], [4, 2]]
    metrics = json.loads(next(folder.glob("exp/eval_*/metrics.json")).read_text())["metrics"]
    assert metrics["num_clips"] == 6 and 0 < metrics["mAP"] <= 1


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_lower_precision_has_a_folder_of_its_own(run, amp):
    exact, _ = run()
    scores, info = run(f"evaluation.amp={amp}")
    assert info["folder"] == f"eval_eval_epoch1-{amp}"
    assert info["precision"].startswith(amp)
    assert not np.array_equal(scores.logits, exact.logits)
    np.testing.assert_allclose(scores.logits, exact.logits, atol=0.02)


def test_an_encoder_whose_batches_matter_is_named(run, monkeypatch, capsys):
    monkeypatch.setattr(Ast, "batch_independent", False)
    _, info = run()
    assert info["batch_independent"] is False
    assert "encoder ast: the scores of a clip depend on the clips that share its batch" in (
        capsys.readouterr().err
    )


def overflow(state):
    state["model"]["encoder.patch_embed.proj.weight"] *= 1e6


def spoil(state):
    state["model"]["encoder.norm.bias"][0] = float("nan")


def rename_a_label(state):
    state["labels"][1][1] = "/m/other"


@pytest.mark.parametrize(
    ("change", "settings", "error", "message"),
    [
        (
            overflow,
            ["evaluation.amp=fp16"],
            ConfigError,
            "numbers above 65504 overflow in fp16; set",
        ),
        (spoil, [], CheckpointError, "such as those of clip_0: the model's encoder.norm.bias is not finite"),
        (rename_a_label, [], CheckpointError, "the model does not know 1 of the corpus' 3 classes"),
        (None, ["evaluation.window_s=0.01"], ConfigError, "window_s 0.01 is too short for one frame"),
        (None, ["evaluation.epoch=3"], CheckpointError, "has no checkpoint of epoch 3"),
    ],
)
def test_models_and_settings_that_cannot_be_used(run, folder, change, settings, error, message):
    if change is not None:
        change_checkpoint(folder, change)
    with pytest.raises(error, match=message):
        run(*settings)
    assert not list(folder.glob("exp/eval_*"))


@pytest.mark.parametrize("settings", [[], ["evaluation.window_s=0.5"]])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_cannot_be_read_whole_is_named_and_nothing_is_scored(run, folder, settings, workers):
    path = folder / "4.wav"
    path.write_bytes(path.read_bytes()[:60000])
    with pytest.raises(DataError, match=r"clip clip_4: cannot read .*4\.wav"):
        run(*settings, f"data.num_workers={workers}")
    assert not list(folder.glob("exp/eval_*"))


@pytest.mark.parametrize("settings", [[], ["evaluation.window_s=0.5"]])
def test_an_empty_split_is_named(run, folder, settings):
    (folder / "data" / "manifests" / "cuts_eval.jsonl").write_text("")
    with pytest.raises(AudiotagError, match=r"cuts_eval\.jsonl"):
        run(*settings)
