"""egs/esc50 with BEATs: fine-tuned and probed, over folds, by the driver."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from audiotag.configfile import load_config
from audiotag.training.checkpoint import load_checkpoint
from tests.corpora.publishedcorpora import make_esc50
from tests.driver.clone import copy_tree, environment
from tests.encoders.beats.reference import SIZES, facts, part, vectors

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("beats_base", "beats_probe")
STATE = {
    name: value
    for name, value in part(vectors("tiny_model"), "state.").items()
    if not name.startswith("predictor.")
}
QUICK = [
    *(f"encoder.{name}={value}" for name, value in SIZES.items()),
    "data.batch_size=8",
    "data.num_workers=0",
    "training.epochs=2",
    "training.amp=off",
    "evaluation.bootstrap=0",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_model_and_its_features_are_the_published_ones(name):
    config = load_config(ROOT / f"egs/esc50/conf/{name}.yaml")
    published = load_config(ROOT / "conf/encoders/beats_base.yaml")
    assert config.features.preset == "beats128" and config.features.mean is None
    of_training = {"freeze", "dropout", "attention_dropout", "layer_drop", "gradient_decay"}
    assert config.encoder.model_dump(exclude=of_training) == published.encoder.model_dump(exclude=of_training)
    assert (config.init.model, config.init.head) == ("$BEATS_CHECKPOINT", "fresh")
    assert (config.loss.name, config.training.best_metric, config.corpus.valid) == ("ce", "accuracy", "eval")
    assert config.encoder.freeze == (name == "beats_probe")


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the repository in which the recipe has two folds."""
    tree = copy_tree(tmp_path_factory.mktemp("clone"))
    script = tree / "egs/esc50/run.sh"
    script.write_text(script.read_text().replace("RECIPE_FOLDS=5", "RECIPE_FOLDS=2"))
    return tree


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("places")
    checkpoint = folder / "BEATs_iter3.pt"
    torch.save({"cfg": {**facts("tiny_model_cfg"), "finetuned_model": False}, "model": STATE}, checkpoint)
    corpus = make_esc50(tmp_path_factory.mktemp("corpus"), categories=3, takes=1)
    return {"ESC50": str(corpus), "BEATS_CHECKPOINT": str(checkpoint)}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_folds_with_one_command(tree, places, name):
    settings = [word for setting in QUICK for word in ("--set", setting)]
    options = ["--recipe", "esc50", "--config", f"conf/{name}.yaml", "--stop-stage", "7", *settings]
    done = subprocess.run(
        ["bash", "run.sh", *options],
        cwd=tree,
        env=environment(**places, OMP_NUM_THREADS="1", PATH=os.environ["PATH"]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    exp = tree / "egs/esc50/exp" / name
    assert len(json.loads((exp / "crossvalidation.json").read_text())["folds"]) == 2
    for fold in (1, 2):
        weights = load_checkpoint(exp / f"fold{fold}/epoch-2.pt")["model"]
        kept = torch.equal(weights["encoder.patch_embedding.weight"], STATE["patch_embedding.weight"])
        assert kept == (name == "beats_probe")
        stores = list((tree / f"egs/esc50/data/fold{fold}").glob("embeddings/*/embeddings.npy"))
        assert len(stores) == (2 if name == "beats_probe" else 0)
