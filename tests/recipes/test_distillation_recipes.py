"""egs/audioset distils as published, and a small run goes from the teacher's file to a trained student."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from audiotag.configfile import load_config
from audiotag.data.splits import read_labels
from audiotag.export.package import load_model
from audiotag.interop.hfexport import export_huggingface
from audiotag.tagger import build_tagger
from audiotag.training.checkpoint import load_checkpoint
from tests.distillation.scenes import write_teacher
from tests.tiny import tiny_labels

CONFIGS = Path(__file__).resolve().parents[2] / "egs" / "audioset" / "conf"


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setenv("AST_CHECKPOINT", "MIT/ast-finetuned-audioset-10-10-0.4593")
    return load_config(CONFIGS / "distil_ast.yaml")


def test_the_student_has_the_published_size(config):
    section = config.model_dump(mode="json")
    with torch.device("meta"):
        tagger = build_tagger(section["features"], section["encoder"], tiny_labels(527))
    assert sum(parameter.numel() for parameter in tagger.parameters()) == 44_066_831
    eps = {module.eps for module in tagger.modules() if isinstance(module, torch.nn.LayerNorm)}
    assert eps == {1e-12}


def test_the_training_has_the_published_settings(config):
    assert (config.init.model, config.init.layers) == ("$AST_CHECKPOINT", [0, 2, 4, 6, 8, 10])
    distillation, training = config.distillation, config.training
    assert (distillation.teachers, distillation.mode) == (["$AST_CHECKPOINT"], "stored")
    assert (distillation.alpha, distillation.temperature) == (0.5, 2.0)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.betas) == ("adam", 3e-5, (0.9, 0.999))
    assert (optimizer.eps, optimizer.weight_decay) == (1e-8, 0.0)
    schedule = config.schedule
    assert (schedule.name, schedule.warmup_ratio, schedule.final_factor) == ("linear", 0.1, 0.0)
    assert (config.data.batch_size, training.batches_per_update, training.epochs) == (32, 4, 10)
    assert (training.amp, config.seed, config.loss.name) == ("fp16", 0, "bce")
    assert config.corpus.train_lists == ["balanced_train_segments.csv"]
    assert not any(config.augment.model_dump().values())


def test_a_small_one_starts_from_the_teachers_blocks_and_learns_from_it(recipe, monkeypatch):
    folder = recipe.folder / "published"
    write_teacher(folder / "own", read_labels(recipe.folder / "data"), width=64, depth=12)
    model = load_model(folder / "own")
    export_huggingface(folder / "hf", model, {})
    monkeypatch.setenv("AST_CHECKPOINT", "published/hf")
    settings = {
        "corpus.dir": "corpus",
        "features.target_frames": 64,
        "encoder.embed_dim": 64,
        "encoder.num_heads": 1,
        "encoder.freq_stride": 16,
        "encoder.time_stride": 16,
        "data.batch_size": 2,
        "data.num_workers": 1,
        "training.epochs": 1,
        "training.amp": "off",
        "optimizer.lr": 1e-12,
    }
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    config = str(CONFIGS / "distil_ast.yaml")
    done = recipe.run("train", "--config", config, "--exp-dir", "exp/distil", *overrides)
    assert done.returncode == 0, done.stderr
    assert "teachers hear 36 clips" in done.stderr, done.stderr
    assert re.search(r"\(labels [\d.]+, teacher [\d.]+\)", done.stderr), done.stderr
    student = load_checkpoint(recipe.exp("distil") / "epoch-1.pt")["model"]
    teacher = model.tagger.state_dict()
    for name, tensor in student.items():
        parts = name.split(".")
        if parts[1] == "blocks":
            parts[2] = str(2 * int(parts[2]))
        torch.testing.assert_close(tensor, teacher[".".join(parts)], atol=1e-6, rtol=0, msg=name)


def test_a_zipformer_learns_from_the_same_teacher(monkeypatch):
    monkeypatch.setenv("AST_CHECKPOINT", "/somewhere/imported")
    config = load_config(CONFIGS / "distil_zipformer_s.yaml")
    plain = load_config(CONFIGS / "zipformer_s.yaml")
    assert config.model_copy(update={"distillation": None, "title": plain.title}) == plain
