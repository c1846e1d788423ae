"""A head that is trained on stored embeddings of a frozen encoder, in runs of the real command."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch

from audiotag.config import Config
from audiotag.data.dataset import ClipDataset
from audiotag.data.index import IndexedManifest
from audiotag.data.splits import read_labels
from audiotag.distributed import World
from audiotag.errors import ConfigError
from audiotag.tagger import build_tagger
from audiotag.training.checkpoint import load_checkpoint
from audiotag.training.probing import describe_store, embeddings_of
from tests.distillation.scenes import write_teacher
from tests.export.models import SMALL
from tests.tiny import tiny_labels, tiny_tagger
from tests.training.processes import Run, assert_same_run

WORLD = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
FREEZE = "encoder.freeze=true"
WITHOUT_STORE = "training.freeze=[{modules: [encoder]}]"
INIT = "init={model: probed/model, head: fresh}"
SIZES = "encoder={name: ast, embed_dim: 24, depth: 2, num_heads: 1, freq_stride: 16, time_stride: 16}"


@pytest.fixture(scope="module")
def probed(recipe, tmp_path_factory):
    """The small recipe with a model to start from; returns a function that trains, and the run's folder."""
    write_teacher(recipe.folder / "probed" / "model", read_labels(recipe.folder / "data"))

    def train(name, *overrides, options=(), processes=1, code=0):
        settings = [word for text in (INIT, SIZES, *overrides) for word in ("--set", text)]
        data = recipe.folder / f"probed/{name.split('-')[0]}"
        if not data.exists():
            shutil.copytree(recipe.folder / "data", data)
        arguments = ["--config", "config.yaml", "--data-dir", str(data), "--exp-dir", f"exp/probed-{name}"]
        run = Run(recipe, *arguments, *settings, *options, processes=processes)
        assert run.wait() == code, run.output
        return run.output, recipe.exp(f"probed-{name}")

    return train


@pytest.fixture(scope="module")
def whole(probed):
    """A finished run of four epochs with checkpoints at its updates."""
    return probed("whole", FREEZE, "training.save_every_steps=1", "training.keep_last_steps=50")


def stores(folder) -> dict[str, dict]:
    """What the embeddings in a data folder are made of, by the names of their folders."""
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("embeddings/*/store.json")}


def test_the_result_is_that_of_training_without_a_store(probed, whole):
    output, folder = whole
    assert re.search(r"the encoder hears train: 36 clips in 1 blocks, 0 of which are done", output)
    assert re.search(r"the encoder hears valid: 12 clips", output)
    _, other = probed("plain", WITHOUT_STORE)
    ours, theirs = (load_checkpoint(path / "epoch-4.pt") for path in (folder, other))
    first = load_checkpoint(folder / "step-1.pt")["model"]
    for name, value in theirs["model"].items():
        if name.startswith("encoder."):
            assert torch.equal(ours["model"][name], value), name
        else:
            torch.testing.assert_close(ours["model"][name], value, rtol=1e-5, atol=1e-6, msg=name)
            assert not torch.equal(ours["model"][name], first[name]), name
    assert ours["metrics"]["mAP"] == pytest.approx(theirs["metrics"]["mAP"], abs=1e-4)
    assert ours["metrics"]["loss"] == pytest.approx(theirs["metrics"]["loss"], rel=1e-5)


def test_a_resumed_run_ends_with_the_same_bits_and_hears_nothing_again(probed, recipe, whole):
    _, folder = whole
    resumed = recipe.exp("probed-whole-from3")
    resumed.mkdir()
    shutil.copy(folder / "step-3.pt", resumed)
    shutil.copytree(folder / "tensorboard", resumed / "tensorboard")
    output, _ = probed("whole-from3", FREEZE, "training.save_every_steps=1", "training.keep_last_steps=50")
    assert "resuming from" in output and "hears" not in output
    assert_same_run(folder, resumed, "epoch-4.pt")


@pytest.mark.slow
def test_two_processes_share_the_clips_and_keep_one_store(probed, recipe):
    output, _ = probed("two", FREEZE, processes=2)
    names = {path.name for path in (recipe.folder / "probed/two/embeddings").iterdir()}
    assert sorted(name.split("-")[0] for name in names) == ["train", "valid"]
    # With the same weights one process finds what two have made.
    output, _ = probed("two-again", FREEZE)
    assert "hears" not in output


@pytest.mark.slow
def test_another_encoder_is_heard_anew(probed, recipe, whole):
    data = recipe.folder / "probed" / "whole"
    before = stores(data)
    write_teacher(recipe.folder / "probed" / "other", read_labels(recipe.folder / "data"), seed=9)
    other = "init={model: probed/other, head: fresh}"
    output, _ = probed("whole-other", FREEZE, other, "training.epochs=1")
    assert "of other models of that name, clips or settings; may be deleted" in output
    after = stores(data)
    assert len(after) == 2 * len(before) == 4 and before.items() <= after.items()
    output, _ = probed("whole-features", FREEZE, "features={mean: 0.0, std: 3.0}", "training.epochs=1")
    assert len(stores(data)) == 6
    one, two = (np.load(data / "embeddings" / name / "embeddings.npy") for name in list(after)[:2])
    assert one.dtype == np.float32 and not np.allclose(one[: len(two)], two[: len(one)])


def test_evaluation_and_export_know_of_no_embeddings(recipe, whole):
    _, folder = whole
    data, options = recipe.folder / "probed/whole", ("--exp-dir", str(folder))
    embeddings = (data / "embeddings").rename(data / "aside")
    try:
        config = ("--config", str(folder / "config.yaml"))
        done = recipe.run("evaluate", *config, *options, "--data-dir", str(data), "--split", "valid")
        assert done.returncode == 0, done.stderr
        assert not (data / "embeddings").exists()
    finally:
        embeddings.rename(data / "embeddings")
    (result,) = folder.glob("eval_valid_*/metrics.json")
    expected = load_checkpoint(folder / "epoch-4.pt")["metrics"]["mAP"]
    assert json.loads(result.read_text())["metrics"]["mAP"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_a_clip_that_cannot_be_read_is_replaced(probed, recipe):
    data = recipe.folder / "probed" / "damaged"
    shutil.copytree(recipe.folder / "data", data)
    manifest = data / "manifests" / "cuts_train.jsonl"
    lines = manifest.read_text().splitlines()
    lines[5] = re.sub(r'"source": "[^"]*"', '"source": "/nowhere.wav"', lines[5])
    manifest.write_text("\n".join(lines) + "\n")
    output, _ = probed("damaged", FREEZE, "data.max_unreadable=0.1", "training.epochs=1")
    assert "it gets no embedding" in output and "1 unreadable clips were replaced" in output
    _, _ = probed("damaged-no", FREEZE, "data.max_unreadable=0", "training.epochs=1", code=3)


@pytest.fixture
def describe(recipe, tmp_path):
    """The key of the embeddings of the small corpus' training clips, for some configuration and precision."""
    manifest = IndexedManifest(recipe.folder / "data/manifests/cuts_train.jsonl")
    dataset = ClipDataset(manifest, storage="on_the_fly", num_classes=10)

    def key(base=SMALL["ast"], amp="off", **sections):
        torch.manual_seed(0)
        config = Config.model_validate({**base, **sections})
        section = config.model_dump(mode="json")
        tagger = build_tagger(section["features"], section["encoder"], tiny_labels())
        return describe_store(dataset, config, tagger, tmp_path, WORLD, "train", amp)[0].key

    return key


def test_what_the_embeddings_depend_on(describe):
    assert describe() == describe(evaluation={"batch_size": 7}, optimizer={"name": "sgd"}, seed=3)
    others = [describe(amp="bf16"), describe(data={"length_multiple_s": 1.0})]
    others += [describe(features={**SMALL["ast"]["features"], "mean": 0.0, "std": 2.0})]
    assert len({describe(), *others}) == 4
    # Zipformers hear a clip otherwise in another batch.
    zipformer = SMALL["zipformer"]
    assert describe(zipformer) != describe(zipformer, evaluation={"batch_size": 7})


def test_embeddings_that_are_not_finite_are_refused():
    tagger = tiny_tagger()
    batch = {"inputs": torch.zeros(2, 64, 128), "lengths": torch.tensor([64, 64]), "ids": ["a", "b"]}
    batch["inputs"][1, 5] = float("nan")
    with pytest.raises(ConfigError, match=r"embedding of clip b is not finite; take bf16 or off"):
        embeddings_of(batch, tagger, torch.device("cpu"), "fp16")


def test_a_tagger_takes_embeddings_without_lengths():
    tagger = tiny_tagger()
    logits, mean = tagger(torch.randn(2, 64, 128), torch.tensor([64, 64]), pooled=True)
    assert torch.equal(tagger(mean, None), logits)


def test_random_weights_are_warned_of_and_windows_heard_at_each_validation(probed):
    output, _ = probed(
        "random",
        FREEZE,
        "init={model: null, head: auto}",
        "training.epochs=1",
        "evaluation={window_s: 0.5}",
    )
    assert "encoder.freeze keeps an encoder of random weights" in output
    assert "hears train" in output and "hears valid" not in output


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"augment": {"roll": {}}, "features": {"storage": "on_the_fly"}}, "augment.roll"),
        ({"augment": {"crop": {}, "masks": {"name": "ast"}}}, "augment.crop and augment.masks have"),
        ({"encoder": {"name": "beats", "freeze": True, "last_layer_only": True}}, "encoder.last_layer_only"),
        ({"encoder": {"name": "beats", "freeze": True, "gradient_decay": 0.3}}, "encoder.gradient_decay"),
        ({"optimizer": {"name": "adamw", "layer_decay": 0.7}}, "optimizer.layer_decay"),
        ({"training": {"freeze": [{"modules": ["encoder.blocks.0"]}]}}, "training.freeze"),
        ({"distillation": {"teachers": ["x"], "mode": "online"}}, "distillation.mode online"),
        ({"data": {"max_duration_s": "auto"}}, "data.max_duration_s auto"),
    ],
)
def test_what_stored_embeddings_would_leave_out_is_refused(section, key):
    tree = {"encoder": {"name": "ast", "freeze": True}, **section}
    with pytest.raises(ValueError, match=f"encoder.freeze trains the head alone.*{re.escape(key)}"):
        Config.model_validate(tree)
    tree["encoder"]["freeze"] = False
    Config.model_validate(tree)
