"""The three published Zipformer trainings have the values of the specification (sections 1.1, 6 and 9)."""

from __future__ import annotations

from pathlib import Path

import pytest

from audiotag.configfile import load_config
from audiotag.training.batchcount import BatchCount
from audiotag.training.position import Position

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "egs" / "audioset" / "conf"
PUBLISHED = {
    "zipformer_m": {
        "epochs": 50,
        "lr_epochs": 3.5,
        "max_duration_s": 1000,
        "sampling": "shuffle",
        "samples_per_epoch": None,
    },
    "zipformer_m_weighted": {
        "epochs": 120,
        "lr_epochs": 15,
        "max_duration_s": 1000,
        "sampling": "weighted",
        "samples_per_epoch": 200_000,
    },
    "zipformer_s": {
        "epochs": 31,
        "lr_epochs": 3.5,
        "max_duration_s": 1200,
        "sampling": "shuffle",
        "samples_per_epoch": None,
    },
}


@pytest.fixture(params=PUBLISHED)
def config(request):
    return load_config(CONF / f"{request.param}.yaml"), PUBLISHED[request.param]


def test_what_the_trainings_differ_in(config):
    config, published = config
    assert config.training.epochs == published["epochs"]
    assert config.schedule.lr_epochs == published["lr_epochs"]
    assert config.data.max_duration_s == published["max_duration_s"] and config.data.batch_size is None
    assert config.data.sampling == published["sampling"]
    assert config.data.samples_per_epoch == published["samples_per_epoch"]


def test_the_weighted_draws_bring_no_clip_twice():
    assert load_config(CONF / "zipformer_m_weighted.yaml").data.replacement is False


def test_clips_and_augmentation(config):
    config, _ = config
    assert config.features.preset == "icefall80" and config.features.target_frames is None
    assert config.corpus.train_lists == ["balanced_train_segments.csv", "unbalanced_train_segments.csv"]
    assert config.data.num_buckets > 1
    augment = config.augment.model_dump(exclude_none=True)
    assert augment == {
        "noise": {"probability": 0.5, "snr_db": (10.0, 20.0)},
        "time_warp": {"per": "clip", "probability": 0.9, "window": 80},
        "masks": {
            "name": "zipformer",
            "probability": 0.9,
            "freq_masks": 2,
            "freq_width": 27,
            "time_share": 0.15,
            "time_masks": 10,
            "time_width": 100,
        },
    }


def test_loss_optimizer_and_schedule(config):
    config, published = config
    assert (config.loss.name, config.loss.reduction, config.loss.label_smoothing) == ("bce", "sum", 0.0)
    assert config.optimizer.model_dump() == {
        "name": "scaled_adam",
        "lr": 0.045,
        "head_lr_factor": 1.0,
        "layer_decay": 1.0,
        "betas": (0.9, 0.98),
        "eps": 1e-8,
        "clipping_scale": 2.0,
        "clipping_update_period": 100,
        "scalar_lr_scale": 0.1,
        "scalar_max": 10.0,
        "param_min_rms": 1e-5,
        "param_max_rms": 3.0,
        "size_update_period": 4,
    }
    assert config.schedule.model_dump() == {
        "name": "eden",
        "lr_batches": 7500.0,
        "lr_epochs": published["lr_epochs"],
        "warmup_steps": 500,
        "warmup_from": 0.5,
    }


def test_precision_averages_and_checkpoints(config):
    training = config[0].training
    assert training.amp == "fp16" and training.clip_norm is None and training.accumulate == 1
    assert training.grad_scaler.model_dump() == {"initial_scale": 1.0, "growth_interval": 2000, "lift": True}
    assert training.running_average.period == 200
    assert (training.validate_every_steps, training.save_every_steps) == (3000, 4000)
    # All epochs stay, so that any epoch and any number of them can be averaged later.
    assert (training.keep_last, training.keep_last_steps) == (0, 30)
    assert (training.ema, training.swa, training.freeze) == (None, None, [])


def test_the_batch_count_of_4_gpus_is_the_published_one(config):
    config, published = config
    count = BatchCount(None, config, processes=4).value(Position(step=1230))
    assert count == 1230 * published["max_duration_s"] * 4 / 600


@pytest.mark.parametrize(("name", "size"), [("zipformer_m", "normal"), ("zipformer_s", "small")])
def test_the_encoder_is_the_published_one(name, size):
    encoder = load_config(CONF / f"{name}.yaml").encoder
    assert encoder == load_config(ROOT / "conf" / "encoders" / f"{name}.yaml").encoder
    layers = {"normal": [2, 2, 3, 4, 3, 2], "small": 2}
    dims = {"normal": [192, 256, 384, 512, 384, 256], "small": [192, 256, 256, 256, 256, 256]}
    assert (encoder.num_encoder_layers, encoder.encoder_dim) == (layers[size], dims[size])


def test_what_is_evaluated():
    for name in PUBLISHED:
        assert load_config(CONF / f"{name}.yaml").evaluation.use_averaged_model
    small = load_config(CONF / "zipformer_s.yaml").evaluation
    assert (small.epoch, small.avg) == (31, 4)


def test_icefalls_manifests_train_the_same_model():
    ours, theirs = (load_config(CONF / f"zipformer_m{suffix}.yaml").model_dump() for suffix in ("", "_cuts"))
    assert {key for key in ours if ours[key] != theirs[key]} == {"title", "corpus", "features"}
    assert theirs["corpus"]["stored_features"] == "use"


@pytest.mark.parametrize(
    "option",
    [
        "corpus.valid=eval",
        "features.storage=stored",
        "corpus.min_duration_s=1",
        "data.samples_per_epoch=800000",
    ],
)
def test_what_is_said_to_be_as_published_can_be_set(option):
    load_config(CONF / "zipformer_m.yaml", [option])
