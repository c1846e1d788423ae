"""What can be done with a linear probe: it is a whole model, whose encoder is the one that it was given."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml

import audiotag
from audiotag.bin import export
from audiotag.config import Config
from audiotag.data.splits import read_labels
from audiotag.evaluation.scores import Scores
from audiotag.export.package import export_package, load_model
from audiotag.interop.formats import read_model
from audiotag.interop.importing import hints_of, import_model
from audiotag.tagger import Tagger, build_tagger
from audiotag.training.checkpoint import load_checkpoint
from tests.conftest import Recipe
from tests.export.models import SMALL

pytestmark = pytest.mark.slow

FOREIGN = {"ast": ("ast", "hf"), "beats": ("beats", "espnet"), "zipformer": ("icefall",)}
FILES = {"hf": "", "espnet": "", "ast": "ast_16_16.pth", "beats": "beats.pt", "icefall": "pretrained.pt"}
# A clip is no longer than what the AST hears, so that a prediction hears the same.
LENGTH = {"ast": {"target_frames": 400}}
# What these formats round: the AST's three eps become one.
TOLERANCE = {"hf": 0.02}


@pytest.fixture(scope="module")
def recipe(recipe, tmp_path_factory):
    """A copy of the recipe that tests share, where others would meet the embeddings that are made here."""
    copy = Recipe(tmp_path_factory.mktemp("uses"))
    for name in ("corpus", "data/manifests"):
        shutil.copytree(recipe.folder / name, copy.folder / name)
    shutil.copy(recipe.folder / "config.yaml", copy.folder)
    return copy


@pytest.fixture(scope="module", params=["ast", "beats", "zipformer"])
def probe(recipe, request):
    """A probe of two epochs, its folder, and what evaluation says of the mean of its checkpoints."""
    name = request.param
    labels = read_labels(recipe.folder / "data")
    features = {**SMALL[name]["features"], **LENGTH.get(name, {}), "storage": "on_the_fly"}
    sections = {"features": features, "encoder": {**SMALL[name]["encoder"], "freeze": True}}
    config = {**yaml.safe_load((recipe.folder / "config.yaml").read_text()), **sections}
    config |= {
        "init": {"model": f"uses/{name}", "head": "fresh"},
        "training": {"epochs": 2, "ema": {"decay": 0.5}},
        "evaluation": {"avg": 2, "batch_size": 1, "bootstrap": 0},
        "optimizer": {"name": "adamw", "lr": 0.05},
    }
    path = recipe.folder / f"uses-{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    whole = Config.model_validate({**SMALL[name], "features": features}).model_dump(mode="json")
    torch.manual_seed(1)
    given = build_tagger(whole["features"], whole["encoder"], labels)
    export_package(
        recipe.folder / "uses" / name, weights=given.state_dict(), config=whole, labels=labels, info={}
    )
    arguments = ("--config", path.name, "--exp-dir", f"exp/uses-{name}")
    for module in ("train", "evaluate"):
        done = recipe.run(module, *arguments)
        assert done.returncode == 0, done.stderr
    folder = recipe.exp(f"uses-{name}")
    return SimpleNamespace(
        name=name,
        folder=folder,
        config=path.name,
        labels=labels,
        encoder=given.encoder.state_dict(),
        scores=Scores.load(folder / "eval_eval_epoch2-avg2" / "scores.npz"),
    )


@pytest.fixture
def exported(probe, recipe, tmp_path, monkeypatch):
    """A function that exports the mean of the checkpoints and returns the folder."""

    def run(kind):
        arguments = ["--exp-dir", str(probe.folder), "--to", kind, "--dest", str(tmp_path / kind)]
        monkeypatch.setattr("sys.argv", ["export", *arguments])
        export.main()
        return tmp_path / kind

    return run


def clips_of(recipe, scores: Scores) -> Iterator[torch.Tensor]:
    """The evaluation clips (1,S) in the order of their scores."""
    for clip in scores.ids:
        (path,) = (recipe.folder / "corpus/audio/eval").glob(f"{clip}.wav")
        yield torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]


@torch.no_grad()
def assert_says_what_evaluation_said(tagger: Tagger, probe, recipe, tolerance=1e-4):
    said = [tagger(clip, torch.tensor([clip.shape[1]]))[0] for clip in clips_of(recipe, probe.scores)]
    np.testing.assert_allclose(torch.stack(said).numpy(), probe.scores.logits, atol=tolerance, rtol=0)


def features_for_programs(frontend, clip):
    """What a program computes by itself: finished where inputs have one length, else a plain filter bank."""
    extract = frontend if frontend.target_frames else frontend.extract
    features, lengths = extract(clip, torch.tensor([clip.shape[1]]))
    return features[:, : int(lengths[0])] if extract is not frontend else features, lengths


def assert_encoder(tagger, probe):
    for name, value in probe.encoder.items():
        assert torch.equal(tagger.encoder.state_dict()[name], value), name


def test_it_is_a_whole_model(probe, recipe, exported):
    """The package; and a checkpoint by itself, whose EMA of a frozen encoder is that encoder."""
    package = audiotag.load(exported("package"))
    assert_encoder(package, probe)
    assert_says_what_evaluation_said(package, probe, recipe)
    assert_encoder(audiotag.load(probe.folder / "epoch-2.pt"), probe)
    ema = load_checkpoint(probe.folder / "epoch-2.pt")["averages"]["ema"]["weights"]
    for name, value in probe.encoder.items():
        torch.testing.assert_close(ema[f"encoder.{name}"].to(value.dtype), value, rtol=1e-6, atol=1e-7)


def test_formats_of_other_toolkits_hold_it(probe, recipe, exported):
    for kind in FOREIGN[probe.name]:
        folder = exported(kind)
        # The AST's own file does not say these.
        untold = {"features": LENGTH["ast"], "encoder": {"num_heads": 2}} if kind == "ast" else {}
        source = read_model(folder / FILES[kind], kind, hints_of(untold))
        model, _ = import_model(source, probe.labels, untold)
        assert_says_what_evaluation_said(model.tagger, probe, recipe, TOLERANCE.get(kind, 1e-4))


@pytest.mark.filterwarnings("ignore:.*torch.jit.load:DeprecationWarning")
def test_programs_for_other_runtimes_hold_it(probe, recipe, exported):
    script = torch.jit.load(exported("torchscript") / "model.ts")
    session = pytest.importorskip("onnxruntime").InferenceSession(str(exported("onnx") / "model.onnx"))
    frontend = load_model(probe.folder / "epoch-2.pt").tagger.frontend
    expected = torch.from_numpy(probe.scores.logits).sigmoid()
    for clip, probabilities in zip(clips_of(recipe, probe.scores), expected, strict=True):
        x, lengths = features_for_programs(frontend, clip)
        found = session.run(None, {"x": x.numpy(), "x_lens": lengths.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(found)[0], probabilities, atol=1e-4, rtol=0)
        with torch.no_grad():
            torch.testing.assert_close(script(x, lengths)[0], probabilities, atol=1e-4, rtol=0)


def test_prediction_says_the_same(probe, recipe):
    files = [f"corpus/audio/eval/{clip}.wav" for clip in probe.scores.ids[:2]]
    done = recipe.run("predict", "--exp-dir", str(probe.folder), *files)
    assert done.returncode == 0, done.stderr
    _, *said = re.split(r"^\S.*\n", done.stdout, flags=re.MULTILINE)
    expected = torch.from_numpy(probe.scores.logits[:2]).sigmoid()
    for lines, probabilities in zip(said, expected, strict=True):
        first, name = lines.splitlines()[0].split(maxsplit=1)
        assert float(first) == pytest.approx(float(probabilities.max()), abs=2e-4)
        assert name.startswith(probe.labels[int(probabilities.argmax())].name)


def test_fine_tuning_teaching_and_ensembles_take_it(probe, recipe):
    still = ("--set", "optimizer.lr=1e-12", "--set", "optimizer.weight_decay=0", "--set", "training.epochs=1")
    unfrozen = ("--set", "encoder.freeze=false", "--set", "evaluation.avg=1", *still)
    config, folder = ("--config", probe.config), f"exp/uses-{probe.name}"
    start = ("--set", f"init={{model: {folder}, avg: 2, head: keep}}")
    tuned = f"exp/uses-{probe.name}-tuned"
    done = recipe.run("train", *config, *unfrozen, *start, "--exp-dir", tuned)
    assert done.returncode == 0, done.stderr
    tuned = audiotag.load(recipe.folder / tuned / "epoch-1.pt")
    assert_says_what_evaluation_said(tuned, probe, recipe, 1e-3)
    taught = (*config, *still, "--set", "evaluation.avg=1", "--set", f"distillation.teachers=[{folder}]")
    done = recipe.run("train", *taught, "--exp-dir", f"exp/uses-{probe.name}-taught")
    assert done.returncode == 0 and "teacher" in done.stderr, done.stderr
    rows = next((recipe.folder / "data/teacher").glob(f"uses-{probe.name}*/scores.npy"))
    assert np.isfinite(np.load(rows)).all()
    scores = recipe.folder / f"ensemble-{probe.name}"
    done = recipe.run("ensemble", folder, "--dest", str(scores), "--set", "evaluation.batch_size=1")
    assert done.returncode == 0, done.stderr
    [path] = scores.rglob("eval_eval_scores/scores.npz")
    np.testing.assert_allclose(Scores.load(path).logits, probe.scores.logits, atol=1e-4, rtol=0)
