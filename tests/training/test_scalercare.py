"""What is done about a scale of fp16 that sinks."""

from __future__ import annotations

import logging

import pytest
import torch

from audiotag.errors import TrainingError
from audiotag.training.scalercare import ScalerCare


def scaler_at(scale, enabled=True):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=enabled)
    scaler.scale(torch.zeros(()))
    return scaler


@pytest.mark.parametrize(
    ("scale", "number", "expected"),
    [
        (7.9, 100, 15.8),
        (7.9, 0, 15.8),
        (8.0, 100, 8.0),
        (31.0, 100, 31.0),
        (31.0, 400, 62.0),
        (32.0, 400, 32.0),
        (0.5, 99, 0.5),
        (0.5, 150, 0.5),
    ],
)
def test_a_low_scale_is_doubled_at_certain_updates(scale, number, expected):
    scaler = scaler_at(scale)
    assert not ScalerCare(scaler, wanted=True).after_update(number)
    assert scaler.get_scale() == pytest.approx(expected)


def test_a_checkpoint_is_kept_once(caplog):
    scaler = scaler_at(0.009)
    care = ScalerCare(scaler, wanted=True)
    with caplog.at_level(logging.WARNING):
        assert care.after_update(100)
    assert "sunk to 0.009" in caplog.text
    scaler.update(0.004)
    assert not care.after_update(200)
    assert scaler.get_scale() == pytest.approx(0.008)


def test_training_ends_where_nothing_is_left():
    with pytest.raises(TrainingError, match=r"sunk to 9e-06.*amp bf16"):
        ScalerCare(scaler_at(9e-6), wanted=True).after_update(0)


@pytest.mark.parametrize(("enabled", "wanted"), [(False, True), (True, False)])
def test_without_a_wish_or_a_scaler_nothing_is_done(enabled, wanted):
    scaler = scaler_at(1e-7, enabled)
    assert not ScalerCare(scaler, wanted).after_update(0)
    assert scaler.get_scale() == pytest.approx(1e-7 if enabled else 1.0)
