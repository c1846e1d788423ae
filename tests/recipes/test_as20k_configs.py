"""AS-20K has the values of ESPnet's recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audiotag.configfile import load_config
from audiotag.optim.schedules import build_schedule

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "egs" / "as20k" / "conf"
NAMES = ("beats_iter3_plus", "beats_iter3_plus_small_gpu", "beats_iter3_plus_as_published")


@pytest.fixture(params=NAMES)
def config(request):
    return load_config(CONF / f"{request.param}.yaml")


def test_the_model_and_what_it_starts_from(config):
    encoder = config.encoder
    assert (encoder.layer_drop, encoder.dropout, encoder.gradient_decay) == (0.1, 0.0, 0.3)
    assert (encoder.depth, encoder.embed_dim, encoder.max_distance, encoder.deep_norm) == (12, 768, 800, True)
    assert (config.init.model, config.init.format, config.init.head) == (
        "$BEATS_CHECKPOINT",
        "beats",
        "fresh",
    )
    assert config.features.preset == "beats128" and config.features.storage == "on_the_fly"


def test_updates(config):
    training, optimizer = config.training, config.optimizer
    assert config.data.batch_size * training.accumulate == 40
    assert (training.epochs, training.amp, training.clip_norm, training.best_metric) == (
        164,
        "off",
        1.0,
        "mAP",
    )
    values = (optimizer.name, optimizer.lr, optimizer.betas, optimizer.eps, optimizer.weight_decay)
    assert values == ("adamw", 3e-5, (0.9, 0.98), 1e-8, 0.01)
    assert optimizer.decay_all and optimizer.layer_decay == optimizer.head_lr_factor == 1.0
    assert (config.loss.name, config.evaluation.best) == ("bce", True)


def test_learning_rates(config):
    schedule = build_schedule(config.schedule.model_dump(), 164 * 489, 489)
    for sample in json.loads((ROOT / "tests/data/beats/espnet_lr.json").read_text()):
        if sample["update"] < 164 * 489:
            assert config.optimizer.lr * schedule(sample["update"]) == pytest.approx(sample["lr"], abs=1e-12)


def test_augmentation(config):
    augment = config.augment.model_dump(exclude_none=True)
    assert augment == {
        "mixup": {
            "on": "waveform",
            "probability": 1.0,
            "alpha": 0.8,
            "partner": "batch",
            "length": "clip",
            "remove_mean": False,
        },
        "roll": {"probability": 1.0, "interval_s": 1.0},
        "time_warp": {"per": "batch", "probability": 1.0, "window": 5},
        "masks": {"name": "beats", "time_share": 0.06},
    }


def test_the_default_selects_on_clips_of_train_and_the_published_choice_is_named():
    default, published = (load_config(CONF / f"{name}.yaml") for name in (NAMES[0], NAMES[2]))
    assert (default.corpus.valid, default.encoder.last_layer_only) == ("holdout", False)
    assert (published.corpus.valid, published.encoder.last_layer_only) == ("eval_tenth", True)
    assert default.encoder.padding == "exact" and published.encoder.padding == "original"
    assert default.corpus.train_lists == published.corpus.train_lists == ["balanced_train_segments.csv"]
