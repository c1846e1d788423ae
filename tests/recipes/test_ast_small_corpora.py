"""The AST's recipes for ESC-50 and Speech Commands have the published values, and do what is published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from audiotag.augment.augmenter import build_augmenter
from audiotag.augment.masks import AstMasks
from audiotag.augment.mixup import Mixup
from audiotag.augment.noise import FeatureNoise
from audiotag.augment.roll import FeatureRoll
from audiotag.configfile import load_config
from audiotag.evaluation.metrics import compute_metrics
from audiotag.frontend import Frontend
from audiotag.labels import Label, LabelTable
from audiotag.losses import build_loss
from audiotag.optim.schedules import build_schedule

ROOT = Path(__file__).resolve().parents[2]
RATES = json.loads((ROOT / "tests/data/ast/lr_schedules.json").read_text())
RECIPES = {
    "esc50/conf/ast_base.yaml": {
        "rates": "esc50_as_pretrained",
        "updates": 34,
        "batch": 48,
        "frames": 512,
        "mean": -6.6268077,
        "std": 5.358466,
        "loss": "ce",
        "model": "$AST_CHECKPOINT",
        "on_inputs": {},
        "on_features": {"masks_ast": AstMasks(24, 96)},
        "best": False,
    },
    "speechcommands/conf/ast_base.yaml": {
        "rates": "speechcommands",
        "updates": 663,
        "batch": 128,
        "frames": 128,
        "mean": -6.845978,
        "std": 5.5654526,
        "loss": "bce",
        "model": "$DEIT_CHECKPOINT",
        "on_inputs": {"mixup_waveform": Mixup(0.6, 10.0, "corpus", "clip", True)},
        "on_features": {
            "masks_ast": AstMasks(48, 48),
            "feature_noise": FeatureNoise(0.1),
            "feature_roll": FeatureRoll(10),
        },
        "best": True,
    },
}
RECIPES["esc50/conf/ast_base_imagenet.yaml"] = {
    **RECIPES["esc50/conf/ast_base.yaml"],
    "rates": "esc50_imagenet_only",
    "model": "$DEIT_CHECKPOINT",
}
TINY = ("esc50/conf/ast_tiny.yaml", "speechcommands/conf/ast_tiny.yaml")


@pytest.fixture(params=RECIPES)
def recipe(request):
    return load_config(ROOT / "egs" / request.param), RECIPES[request.param]


def test_the_rates_of_all_epochs_are_the_published_ones_without_a_warm_up(recipe):
    config, published = recipe
    rates, updates = RATES[published["rates"]], published["updates"]
    assert config.training.epochs == rates["epochs"] == len(rates["lr_per_epoch"])
    schedule = build_schedule(config.schedule.model_dump(), rates["epochs"] * updates, updates)
    for epoch, expected in enumerate(rates["lr_per_epoch"]):
        for update in (0, updates - 1):
            rate = config.optimizer.lr * schedule(epoch * updates + update)
            assert rate == pytest.approx(expected, rel=1e-12), (epoch, update)


def test_optimiser_precision_and_what_training_goes_by(recipe):
    config, published = recipe
    assert config.init.model == published["model"]
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.betas, optimizer.eps) == ("adam", (0.95, 0.999), 1e-8)
    assert (optimizer.weight_decay, optimizer.decay_all) == (5e-7, True)
    assert (config.training.amp, config.training.clip_norm) == ("fp16", None)
    assert config.training.grad_scaler.initial_scale == 2.0**16  # torch's own
    assert (config.data.batch_size, config.data.sampling) == (published["batch"], "shuffle")
    assert config.training.best_metric == "accuracy"
    assert (config.evaluation.best, config.evaluation.avg) == (published["best"], 1)


def test_features_and_model(recipe):
    config, published = recipe
    features = config.features
    assert (features.preset, features.target_frames) == ("ast128", published["frames"])
    assert (features.mean, features.std) == (published["mean"], published["std"])
    encoder = config.encoder
    assert (encoder.embed_dim, encoder.depth, encoder.num_heads) == (768, 12, 12)
    assert (encoder.freq_stride, encoder.time_stride) == (10, 10)


def test_augmentation_and_loss(recipe):
    config, published = recipe
    built = build_augmenter(config.model_dump(mode="json")["augment"])
    assert (built.on_inputs, built.on_features) == (published["on_inputs"], published["on_features"])
    # Noise and roll come behind the masks, which come before the normalisation.
    assert list(built.on_features) == list(published["on_features"])
    loss = config.loss
    assert (loss.name, loss.label_smoothing, loss.class_weights) == (published["loss"], 0.0, "none")


@pytest.mark.parametrize("name", TINY)
def test_the_small_configs_need_no_other_model_and_see_the_same_features(name):
    tiny, base = (load_config(ROOT / "egs" / path) for path in (name, name.replace("tiny", "base")))
    assert tiny.init.model is None and tiny.encoder.embed_dim < 100
    for key in ("preset", "target_frames", "mean", "std"):
        assert getattr(tiny.features, key) == getattr(base.features, key)
    assert (tiny.corpus, tiny.augment, tiny.loss) == (base.corpus, base.augment, base.loss)
    assert tiny.training.best_metric == "accuracy" and tiny.training.amp == "off"


def test_noise_is_added_to_normalised_features_of_padding_too_and_all_is_rolled():
    config = load_config(ROOT / "egs/speechcommands/conf/ast_base.yaml", ["augment.mixup=null"])
    features, augment = config.features, config.model_dump(mode="json")["augment"]
    augment["masks"].update(freq_width=0, time_width=0)
    built = build_augmenter(augment)
    frontend = Frontend("ast128", features.target_frames, features.mean, features.std)
    waveform = 0.1 * torch.randn(1, 4800, generator=torch.Generator().manual_seed(1))
    batch = {"inputs": waveform, "lengths": torch.tensor([4800]), "labels": torch.eye(35)[:1]}
    plain, frames = frontend(waveform, batch["lengths"])
    moved = []
    for number in range(60):
        changed, _, _ = built(batch, frontend, torch.device("cpu"), (1, 2, number))
        assert changed.shape == (1, 128, 128)
        added = {shift: changed.roll(-shift, 1) - plain for shift in range(-10, 10)}
        fitting = [
            shift for shift, noise in added.items() if noise.min() >= -1e-6 and noise.max() <= 0.1 + 1e-6
        ]
        assert len(fitting) == 1
        assert (added[fitting[0]][:, int(frames) :] > 0).any()
        moved += fitting
    assert min(moved) < -6 and max(moved) > 6


@pytest.mark.parametrize("name", ["bce", "ce"])
def test_accuracy_is_that_of_the_highest_score_with_either_loss(name):
    """Sigmoids, softmaxes and logits have the same order within a clip."""
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((400, 35)).astype(np.float32)
    targets = np.eye(35)[rng.integers(0, 35, 400)]
    logits += 1.5 * targets
    expected = (logits.argmax(1) == targets.argmax(1)).mean()
    for scores in (logits, torch.from_numpy(logits).log_softmax(1).numpy()):
        assert compute_metrics(scores, targets).summary["accuracy"] == pytest.approx(expected)
    table = LabelTable([Label(index, f"w{index}", f"w{index}") for index in range(35)])
    section = {"name": name, "label_smoothing": 0.0, "class_weights": "none", "reduction": "mean"}
    found = build_loss(section, table)(torch.from_numpy(logits), torch.from_numpy(targets))
    reference = torch.nn.BCEWithLogitsLoss() if name == "bce" else torch.nn.CrossEntropyLoss()
    target = torch.from_numpy(targets).float() if name == "bce" else torch.from_numpy(targets.argmax(1))
    assert found.item() == pytest.approx(reference(torch.from_numpy(logits), target).item(), rel=1e-6)
