"""egs/as20k goes from audio and a pre-trained file to scores, as configured and as published."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from audiotag.corpora.synthetic import synthesize
from audiotag.training.checkpoint import load_checkpoint
from tests.driver.clone import copy_tree, environment
from tests.encoders.beats.reference import SIZES, facts, part, vectors

pytestmark = pytest.mark.slow

TINY = [
    *(f"encoder.{name}={value}" for name, value in SIZES.items()),
    "data.batch_size=8",
    "data.num_workers=1",
    "corpus.valid_share=0.2",
    "schedule.first_cycle_steps=20",
    "schedule.warmup_steps=2",
    "training.epochs=2",
    "evaluation.bootstrap=0",
]
STATE = part(vectors("tiny_model"), "state.")


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """The variables of db.sh: a corpus with AudioSet's own names of lists, and a pre-trained model."""
    folder = tmp_path_factory.mktemp("audioset")
    synthesize(folder, seed=1, train_clips=40, eval_clips=30)
    (folder / "train_segments.csv").rename(folder / "balanced_train_segments.csv")
    (folder / "unbalanced_train_segments.csv").write_text((folder / "eval_segments.csv").read_text())
    state = {name: value for name, value in STATE.items() if not name.startswith("predictor.")}
    checkpoint = folder / "BEATs_iter3_plus_AS20K.pt"
    torch.save({"cfg": {**facts("tiny_model_cfg"), "finetuned_model": False}, "model": state}, checkpoint)
    return {"AUDIOSET": str(folder), "BEATS_CHECKPOINT": str(checkpoint)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return copy_tree(tmp_path_factory.mktemp("clone"))


def drive(tree: Path, config: str, places: dict[str, str]) -> subprocess.CompletedProcess:
    overrides = [word for setting in TINY for word in ("--set", setting)]
    return subprocess.run(
        [
            "bash",
            "run.sh",
            "--recipe",
            "as20k",
            "--config",
            f"conf/{config}.yaml",
            "--stop-stage",
            "7",
            *overrides,
        ],
        cwd=tree,
        env=environment(**places, OMP_NUM_THREADS="1"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_as_configured(tree, places):
    done = drive(tree, "beats_iter3_plus", places)
    assert done.returncode == 0, done.stdout + done.stderr
    exp = tree / "egs/as20k/exp/beats_iter3_plus"
    [scored] = exp.glob("eval_eval_*/metrics.json")
    assert json.loads(scored.read_text())["info"]["selected_on"] == "valid"
    assert (exp / "RESULTS.md").is_file()


def test_as_published(tree, places):
    done = drive(tree, "beats_iter3_plus_as_published", places)
    assert done.returncode == 0, done.stdout + done.stderr
    recipe = tree / "egs/as20k"
    coverage = json.loads((recipe / "data/manifests/coverage.json").read_text())
    assert (coverage["valid"]["part_of"], coverage["valid"]["listed"]) == ("eval", 3)
    exp = recipe / "exp/beats_iter3_plus_as_published"
    [scored] = exp.glob("eval_eval_*/metrics.json")
    assert json.loads(scored.read_text())["info"]["selected_on"] == "eval"
    weights = load_checkpoint(max(exp.glob("epoch-*.pt")))["model"]
    for name, value in STATE.items():
        if name.startswith("predictor.") or "relative_attention_bias" in name:
            continue
        same = torch.equal(weights[f"encoder.{name}"], value)
        assert same or ".layers.2." in name, name
    assert not torch.equal(
        weights["encoder.encoder.layers.2.fc1.weight"], STATE["encoder.layers.2.fc1.weight"]
    )


def test_without_the_checkpoint_the_error_names_its_variable(tree, places):
    done = drive(tree, "beats_iter3_plus_small_gpu", {**places, "BEATS_CHECKPOINT": ""})
    assert done.returncode != 0
    assert "BEATS_CHECKPOINT is not set: write it into db.sh" in done.stdout + done.stderr
