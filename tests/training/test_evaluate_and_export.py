"""Evaluating and exporting a finished run with the real commands."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

import audiotag
from audiotag.evaluation.scores import Scores
from audiotag.training.averaging import choose_weights


def evaluate(recipe, name, *arguments):
    return recipe.run("evaluate", "--config", "config.yaml", "--exp-dir", f"exp/{name}", *arguments)


def test_scores_are_those_of_the_averaged_model_on_each_clip_alone(recipe, finished):
    done = evaluate(recipe, "finished", "--avg", "2")
    assert done.returncode == 0, done.stderr
    folder = finished / "eval_eval_epoch4-avg2"
    scores = Scores.load(folder / "scores.npz")
    tagger = audiotag.load(finished / "epoch-4.pt")
    tagger.load_state_dict(choose_weights(finished, avg=2).weights)
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
    best = choose_weights(finished, best=True).name
    scored = json.loads((finished / f"eval_valid_{best}" / "metrics.json").read_text())
    stored = choose_weights(finished, best=True).checkpoint["metrics"]
    assert scored["metrics"]["mAP"] == pytest.approx(stored["mAP"], abs=1e-6)
    assert (finished / f"eval_eval_{best}" / "scores.npz").is_file()


def test_a_valid_split_of_other_data_is_refused(recipe, finished):
    data = ("--set", "corpus.valid_seed=9", "--data-dir", "reseeded")
    assert recipe.run("prepare", "--config", "config.yaml", *data).returncode == 0
    done = evaluate(recipe, "finished", *data, "--split", "valid")
    assert done.returncode == 3
    assert "its valid split may hold clips that the model has seen" in done.stderr
    assert evaluate(recipe, "finished", *data, "--split", "eval").returncode == 0


def test_two_processes_score_every_clip_once(recipe, finished):
    assert evaluate(recipe, "finished").returncode == 0
    alone = Scores.load(finished / "eval_eval_epoch4" / "scores.npz")
    metrics = json.loads((finished / "eval_eval_epoch4" / "metrics.json").read_text())["metrics"]
    small = ("--set", "evaluation.batch_size=5")
    done = recipe.run("evaluate", "--config", "config.yaml", "--exp-dir", "exp/finished", *small, processes=2)
    assert done.returncode == 0, done.stderr
    scores = Scores.load(finished / "eval_eval_epoch4" / "scores.npz")
    assert sorted(scores.ids) == sorted(alone.ids)
    order = [scores.ids.index(clip) for clip in alone.ids]
    assert np.allclose(scores.logits[order], alone.logits, atol=1e-5)
    again = json.loads((finished / "eval_eval_epoch4" / "metrics.json").read_text())["metrics"]
    assert again["mAP"] == pytest.approx(metrics["mAP"], abs=1e-6)


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
    for name, tensor in choose_weights(finished, avg=3).weights.items():
        assert torch.equal(tagger.state_dict()[name], tensor), name
    assert tagger.labels[1].name == "Chirp, rising"
    description = json.loads((finished / "export" / "config.json").read_text())
    assert description["info"]["checkpoints"] == ["epoch-2.pt", "epoch-3.pt", "epoch-4.pt"]
