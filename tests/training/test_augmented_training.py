"""Training with everything that changes clips switched on: it runs, it resumes bit by bit, and evaluation
does not see it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from audiotag.data.loading import load_audio
from audiotag.data.splits import open_split
from audiotag.labels import LabelTable
from audiotag.tagger import build_tagger
from audiotag.training.checkpoint import load_checkpoint

AUGMENT = """
augment:
  mixup: {on: waveform, probability: 0.5, alpha: 10, partner: corpus}
  random_length: {duration_s: [0.5, 1.0]}
  repeat: {duration_s: 0.8}
  roll: {interval_s: 0}
  gain: {}
  white_noise: {}
  time_warp: {window: 10}
  masks: {name: ast, freq_width: 48, time_width: 20}
  feature_noise: {}
  feature_roll: {}
training: {epochs: 2}
"""


@pytest.fixture(scope="module")
def augmented(recipe) -> Path:
    """A run of two epochs, and its configuration in augmented.yaml."""
    (recipe.folder / "augmented.yaml").write_text("include: config.yaml\n" + AUGMENT)
    done = train(recipe, "augmented")
    assert done.returncode == 0, done.stderr
    return recipe.exp("augmented")


def train(recipe, name, *options, processes=1):
    """Run training with augmented.yaml into exp/<name>."""
    arguments = ["--config", "augmented.yaml", "--exp-dir", f"exp/{name}", *options]
    return recipe.run("train", *arguments, processes=processes)


def test_it_trains_on_other_inputs_than_without(augmented, finished):
    state = load_checkpoint(augmented / "epoch-2.pt")
    assert state["position"]["step"] == 8
    plain = load_checkpoint(finished / "epoch-2.pt")
    assert any(not torch.equal(weight, plain["model"][name]) for name, weight in state["model"].items())
    assert all(weight.isfinite().all() for weight in state["model"].values())


def test_a_resumed_run_with_other_workers_ends_with_the_same_bits(recipe, augmented):
    shutil.copytree(augmented, recipe.exp("augmented_resumed"))
    (recipe.exp("augmented_resumed") / "epoch-2.pt").unlink()
    done = train(recipe, "augmented_resumed", "--set", "data.num_workers=0")
    assert done.returncode == 0, done.stderr
    assert "resuming from exp/augmented_resumed/epoch-1.pt" in done.stderr
    whole, resumed = (
        load_checkpoint(recipe.exp(name) / "epoch-2.pt") for name in ("augmented", "augmented_resumed")
    )
    for name, weight in whole["model"].items():
        assert torch.equal(weight, resumed["model"][name]), name
    assert whole["metrics"] == resumed["metrics"]


def test_evaluation_does_not_see_it(recipe, augmented):
    done = recipe.run(
        "evaluate",
        "--config",
        "augmented.yaml",
        "--exp-dir",
        "exp/augmented",
        "--set",
        "evaluation.splits=[valid]",
    )
    assert done.returncode == 0, done.stderr
    state = load_checkpoint(augmented / "epoch-2.pt")
    tagger = build_tagger(
        state["config"]["features"], state["config"]["encoder"], LabelTable.from_rows(state["labels"])
    ).eval()
    tagger.load_state_dict(state["model"])
    manifest = open_split(recipe.folder / "data", "valid", preset="ast128", storage="on_the_fly")
    (scores_file,) = augmented.glob("eval_valid_*/scores.npz")
    scores = np.load(scores_file)
    rows = {name: row for row, name in enumerate(scores["ids"].tolist())}
    assert len(rows) == len(manifest) > 0
    with torch.no_grad():
        for position in range(len(manifest)):
            # The clip as it is, alone.
            wave = torch.from_numpy(load_audio(manifest.record(position)))
            logits = tagger(wave[None], torch.tensor([len(wave)]))[0].numpy()
            np.testing.assert_allclose(scores["logits"][rows[manifest.id(position)]], logits, atol=1e-4)
    # The validation of the training command found the same.
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(scores["logits"]), torch.from_numpy(scores["labels"]).float()
    )
    assert state["metrics"]["loss"] == pytest.approx(loss.item(), abs=1e-5)
