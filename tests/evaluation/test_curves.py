"""Reading back real TensorBoard files: of one run, of a resumed one, of one that was cut off."""

from __future__ import annotations

import math

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from audiotag.evaluation.curves import Curve, read_curves


def write_points(folder, steps, tag="train/loss", value=lambda step: 1.0 / step, **options):
    with SummaryWriter(str(folder), **options) as writer:
        for step in steps:
            writer.add_scalar(tag, value(step), step)


def test_every_point_is_read_in_order(tmp_path):
    steps = range(1, 15001)  # more than the 10,000 that TensorBoard keeps by default
    write_points(tmp_path, steps)
    with SummaryWriter(str(tmp_path), filename_suffix=".b") as writer:
        writer.add_text("config", "a text is no curve")
        writer.add_scalar("valid/mAP", 0.5, 10)
    curves = read_curves(tmp_path)
    assert sorted(curves) == ["train/loss", "valid/mAP"]
    np.testing.assert_array_equal(curves["train/loss"].steps, np.array(steps))
    np.testing.assert_allclose(curves["train/loss"].values, 1.0 / np.array(steps), rtol=1e-6)


def test_no_folder_and_no_files_give_no_curves(tmp_path):
    assert read_curves(tmp_path / "none") == {}
    assert read_curves(tmp_path) == {}


@pytest.mark.parametrize("options", [{"purge_step": 6}, {}])
def test_a_resumed_run_replaces_what_it_repeats(tmp_path, options):
    write_points(tmp_path, range(1, 11), value=lambda step: 1.0)
    write_points(tmp_path, range(6, 16), value=lambda step: 2.0, filename_suffix=".b", **options)
    curve = read_curves(tmp_path)["train/loss"]
    np.testing.assert_array_equal(curve.steps, np.arange(1, 16))
    np.testing.assert_array_equal(curve.values, [1.0] * 5 + [2.0] * 10)


def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path):
    write_points(tmp_path, range(1, 101))
    (path,) = tmp_path.glob("events.*")
    path.write_bytes(path.read_bytes()[:-17])
    np.testing.assert_array_equal(read_curves(tmp_path)["train/loss"].steps, np.arange(1, 100))


def test_best_skips_values_that_are_not_finite():
    curve = Curve(np.array([1, 2, 3, 4]), np.array([0.5, math.nan, 0.9, 0.9]))
    assert curve.best() == (3, 0.9)
    assert curve.best(highest=False) == (1, 0.5)
    assert curve.last == 0.9
