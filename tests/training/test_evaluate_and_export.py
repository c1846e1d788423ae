"""Evaluating and exporting a finished run with the real commands."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

import audiotag
from audiotag.configevaluation import WeightChoice
from audiotag.evaluation.scores import Scores
from audiotag.training.averaging import choose_weights
from audiotag.training.checkpoint import load_checkpoint


def evaluate(recipe, name, *arguments):
    return recipe.run("evaluate", "--config", "config.yaml", "--exp-dir", f"exp/{name}", *arguments)


def test_scores_are_those_of_the_averaged_model_on_each_clip_alone(recipe, finished):
    done = evaluate(recipe, "finished", "--avg", "2")
    assert done.returncode == 0, done.stderr
    folder = finished / "eval_eval_epoch4-avg2"
    scores = Scores.load(folder / "scores.npz")
    tagger = audiotag.load(finished / "epoch-4.pt")
    tagger.load_state_dict(choose_weights(finished, WeightChoice(avg=2)).weights)
    assert len(scores.ids) == 12
    for clip, logits in zip(scores.ids, scores.logits, strict=True):
        audio, _ = soundfile.read(
            recipe.folder / "corpus" / "audio" / "eval" / f"{clip}.wav", dtype="float32"
        )
        with torch.no_grad():
            alone = tagger(torch.from_numpy(audio)[None], torch.tensor([len(audio)]))[0]
        assert np.allclose(alone, logits, atol=1e-4), clip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["info"]["checkpoints"] == ["epoch-3.pt", "epoch-4.pt"]
    assert metrics["info"]["coverage"]["eval"]["present"] == 12
    assert "torch" in metrics["info"]["provenance"]
    assert (folder / "per_class.csv").read_text().count("\n") == 11


def test_best_and_several_splits(recipe, finished):
    done = evaluate(recipe, "finished", "--best", "--split", "valid", "--split", "eval")
    assert done.returncode == 0, done.stderr
    best = choose_weights(finished, WeightChoice(best=True))
    assert_measures_the_same(finished / f"eval_valid_{best.name}", best.checkpoint["metrics"])
    info = json.loads((finished / f"eval_eval_{best.name}" / "metrics.json").read_text())["info"]
    assert info["selected_on"] == "valid"
    assert info["weights_in_words"] == f"trained weights of {best.files[0]}, chosen by validation"


def assert_measures_the_same(folder, validated):
    """Stage 6 on valid gives what validation while training gave."""
    scored = json.loads((folder / "metrics.json").read_text())["metrics"]
    common = scored.keys() & validated.keys()
    assert {"mAP", "mAUC", "loss", "accuracy"} <= common
    for name in common:
        if validated[name] is None:
            assert scored[name] is None, name
        else:
            assert scored[name] == pytest.approx(validated[name], abs=1e-6), name


@pytest.mark.slow
def test_validation_while_training_takes_the_same_windows(recipe):
    """On two processes with other batches, against one alone."""
    windows = ("evaluation.window_s=0.64", "evaluation.window_mean=logits")
    done = recipe.train("windowed", "training.epochs=1", "evaluation.batch_size=5", *windows, processes=2)
    assert done.returncode == 0, done.stderr
    assert "of valid are longer than" not in done.stderr
    settings = [word for setting in windows for word in ("--set", setting)]
    done = evaluate(recipe, "windowed", "--split", "valid", *settings)
    assert done.returncode == 0, done.stderr
    stored = load_checkpoint(recipe.exp("windowed") / "epoch-1.pt")["metrics"]
    folder = recipe.exp("windowed") / "eval_valid_epoch1-windows0.64-hop0.32-logits"
    assert_measures_the_same(folder, stored)


@pytest.mark.slow
def test_a_valid_split_of_other_data_is_refused(recipe, finished):
    data = ("--set", "corpus.valid_seed=9", "--data-dir", "reseeded")
    assert recipe.run("prepare", "--config", "config.yaml", *data).returncode == 0
    done = evaluate(recipe, "finished", *data, "--split", "valid")
    assert done.returncode == 3
    assert "its valid split may hold clips that the model has seen" in done.stderr
    assert evaluate(recipe, "finished", *data, "--split", "eval").returncode == 0


@pytest.mark.parametrize("windows", [(), ("--set", "evaluation.window_s=0.64")])
@pytest.mark.slow
def test_two_processes_write_the_same_scores_as_one(recipe, finished, windows):
    """To the last bit, since they share the same batches; up to rounding with other batches."""
    small = (*windows, "--set", "evaluation.batch_size=5")
    assert evaluate(recipe, "finished", *small).returncode == 0
    folder = finished / ("eval_eval_epoch4-windows0.64-hop0.32" if windows else "eval_eval_epoch4")
    alone = Scores.load(folder / "scores.npz")
    content = (folder / "scores.npz").read_bytes()
    metrics = json.loads((folder / "metrics.json").read_text())
    manifest = (recipe.folder / "data" / "manifests" / "cuts_eval.jsonl").read_text().splitlines()
    assert alone.ids == [json.loads(line)["id"] for line in manifest]
    done = recipe.run("evaluate", "--config", "config.yaml", "--exp-dir", "exp/finished", *small, processes=2)
    assert done.returncode == 0, done.stderr
    assert (folder / "scores.npz").read_bytes() == content
    again = json.loads((folder / "metrics.json").read_text())
    assert again["metrics"] == metrics["metrics"]
    assert (metrics["info"]["processes"], again["info"]["processes"]) == (1, 2)
    if windows:
        assert again["info"]["windows"]["clips_in_windows"] == 12
    assert evaluate(recipe, "finished", *windows).returncode == 0
    scores = Scores.load(folder / "scores.npz")
    assert scores.ids == alone.ids and np.array_equal(scores.labels, alone.labels)
    assert np.allclose(scores.logits, alone.logits, atol=1e-5 * np.abs(alone.logits).max())


def test_a_clip_that_one_of_two_processes_cannot_read_is_named(recipe, finished):
    """The other does not wait for it, and nothing is written."""
    shutil.copytree(finished, recipe.exp("damaged"))
    data = recipe.folder / "damaged_data"
    shutil.copytree(recipe.folder / "data", data)
    path = data / "manifests" / "cuts_eval.jsonl"
    lines = path.read_text().splitlines()
    cut = json.loads(lines[7])
    source = cut["recording"]["sources"][0]
    audio = (recipe.folder / source["source"]).read_bytes()
    source["source"] = str(data / "short.wav")
    (data / "short.wav").write_bytes(audio[: len(audio) // 2])
    path.write_text("\n".join([*lines[:7], json.dumps(cut), *lines[8:]]) + "\n")
    shutil.rmtree(recipe.exp("damaged") / "eval_eval_epoch4", ignore_errors=True)
    arguments = ("--config", "config.yaml", "--exp-dir", "exp/damaged", "--data-dir", "damaged_data")
    done = recipe.run("evaluate", *arguments, "--set", "evaluation.batch_size=4", processes=2)
    assert done.returncode != 0
    assert f"clip {cut['id']}: cannot read {data / 'short.wav'}" in done.stderr
    assert not (recipe.exp("damaged") / "eval_eval_epoch4" / "metrics.json").exists()


@pytest.mark.slow
def test_columns_follow_the_mids_when_the_corpus_lists_its_labels_in_another_order(recipe, finished):
    assert evaluate(recipe, "finished").returncode == 0
    usual = Scores.load(finished / "eval_eval_epoch4" / "scores.npz")
    shutil.copytree(finished, recipe.exp("turned"))
    corpus = recipe.folder / "turned_corpus"
    shutil.copytree(recipe.folder / "corpus", corpus)
    header, *rows = (corpus / "class_labels_indices.csv").read_text().splitlines()
    turned = [f"{index},{row.split(',', 1)[1]}" for index, row in enumerate(reversed(rows))]
    (corpus / "class_labels_indices.csv").write_text("\n".join([header, *turned]) + "\n")
    arguments = ("--set", f"corpus.dir={corpus}", "--data-dir", "turned_data")
    assert recipe.run("prepare", "--config", "config.yaml", *arguments).returncode == 0
    done = evaluate(recipe, "turned", *arguments)
    assert done.returncode == 0, done.stderr
    scores = Scores.load(recipe.exp("turned") / "eval_eval_epoch4" / "scores.npz")
    assert scores.ids == usual.ids
    assert np.array_equal(scores.logits, usual.logits[:, ::-1])
    assert np.array_equal(scores.labels, usual.labels[:, ::-1])
    (corpus / "class_labels_indices.csv").write_text(
        (corpus / "class_labels_indices.csv").read_text() + f"{len(rows)},/m/new,New\n"
    )
    assert recipe.run("prepare", "--config", "config.yaml", *arguments).returncode == 0
    done = evaluate(recipe, "turned", *arguments)
    assert done.returncode == 4
    assert "the model does not know 1 of the corpus' 11 classes, among them /m/new (New)" in done.stderr


@pytest.mark.slow
def test_missing_checkpoints_are_named(recipe, finished):
    done = evaluate(recipe, "nothing_here")
    assert done.returncode == 4
    assert "holds no epoch-<n>.pt; stage 5 makes them" in done.stderr
    done = evaluate(recipe, "finished", "--epoch", "9")
    assert done.returncode == 4
    assert "no checkpoint of epoch 9" in done.stderr


def test_the_exported_folder_gives_the_averaged_model(recipe, finished):
    arguments = ("--config", "config.yaml", "--exp-dir", "exp/finished", "--set", "evaluation.avg=3")
    done = recipe.run("export", *arguments, "--dest", "exp/finished/export")
    assert done.returncode == 0, done.stderr
    tagger = audiotag.load(finished / "export")
    for name, tensor in choose_weights(finished, WeightChoice(avg=3)).weights.items():
        assert torch.equal(tagger.state_dict()[name], tensor), name
    assert tagger.labels[1].name == "Chirp, rising"
    description = json.loads((finished / "export" / "config.json").read_text())
    assert description["info"]["checkpoints"] == ["epoch-2.pt", "epoch-3.pt", "epoch-4.pt"]
