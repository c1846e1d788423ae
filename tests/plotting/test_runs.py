"""Curves of runs as they are read for pictures: which points, over which axis, under which name."""

from __future__ import annotations

import math

import numpy as np
import pytest

from audiotag.errors import ConfigError, DataError
from audiotag.plotting.runs import epochs_at, legend_names, read_run, read_runs
from audiotag.training import tensorboard
from audiotag.training.tensorboard import RunWriter


def write_run(folder, steps, last_step=0):
    """A run with ten updates an epoch and eight clips an update."""
    writer = RunWriter(folder / "tensorboard", last_step=last_step, enabled=True)
    writer.text("config", "a text is no curve")
    for step in steps:
        writer.scalars(
            {"train/loss": 1 / step, "train/epoch": (step - 1) // 10 + 1, "train/clips": 8 * step}, step
        )
    writer.close()


def test_points_and_axes_of_a_run(tmp_path):
    write_run(tmp_path, range(5, 31, 5))
    run = read_run(tmp_path, "small")
    curve = run.curves["train/loss"]
    assert sorted(run.curves) == ["train/clips", "train/epoch", "train/loss"]
    np.testing.assert_array_equal(curve.values, np.float32(1 / curve.steps))
    np.testing.assert_array_equal(run.axis(curve, "step"), [5, 10, 15, 20, 25, 30])
    np.testing.assert_allclose(run.axis(curve, "epoch"), [0.5, 1, 1.5, 2, 2.5, 3])
    np.testing.assert_allclose(run.axis(curve, "clips"), [40, 80, 120, 160, 200, 240])
    assert run.curves["train/loss"].values.dtype == float


def test_the_hours_between_parts_of_a_run_do_not_count(tmp_path, monkeypatch):
    now = [1_000_000.0]
    monkeypatch.setattr(tensorboard.time, "time", lambda: now[0])

    def part(steps, last_step):
        writer = RunWriter(tmp_path, last_step=last_step, enabled=True)
        for step in steps:
            now[0] += 3600
            writer.scalars({"train/loss": 1.0}, step)
        writer.close()

    part(range(1, 7), 0)
    now[0] += 50 * 3600
    part(range(5, 9), 4)  # the last two come again
    run = read_run(tmp_path, "interrupted")
    np.testing.assert_allclose(run.axis(run.curves["train/loss"], "time"), [1, 2, 3, 4, 5, 6, 7, 8])


def test_a_run_that_is_still_writing_is_read_as_far_as_it_goes(tmp_path):
    write_run(tmp_path, range(1, 11))
    (path,) = (tmp_path / "tensorboard").glob("events.*")
    before = path.read_bytes()
    path.write_bytes(before[:-5])
    assert read_run(tmp_path, "live").curves["train/loss"].steps.tolist() == list(range(1, 10))
    assert path.read_bytes() == before[:-5]


def test_epochs_are_as_long_as_those_before():
    logged = np.array([5, 10, 15, 20, 25])
    epochs = np.array([1, 1, 2, 2, 3])
    np.testing.assert_allclose(epochs_at(logged, logged, epochs), [0.5, 1, 1.5, 2, 2.5])
    np.testing.assert_allclose(epochs_at(np.array([7]), logged[:2], epochs[:2]), [0.7])


def test_folders_without_curves_say_so(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_runs([str(tmp_path / "none")])
    with pytest.raises(DataError, match="no TensorBoard curves"):
        read_runs([str(tmp_path)])
    RunWriter(tmp_path / "tensorboard", last_step=0, enabled=True).text("config", "x: 1")
    with pytest.raises(DataError, match="no TensorBoard curves"):
        read_runs([str(tmp_path)])


def test_an_axis_that_a_run_does_not_know(tmp_path):
    writer = RunWriter(tmp_path, last_step=0, enabled=True)
    writer.scalars({"train/loss": 1.0}, 1)
    writer.close()
    run = read_run(tmp_path, "old")
    with pytest.raises(DataError, match=r"no curve train/clips.*--x step"):
        run.axis(run.curves["train/loss"], "clips")


def test_names_tell_runs_apart(tmp_path):
    folders = [tmp_path / name for name in ("mini/exp/ast", "esc50/exp/ast", "esc50/exp/beats/tensorboard")]
    assert legend_names(folders[:1]) == ["ast"]
    assert legend_names(folders[1:]) == ["ast", "beats"]
    assert legend_names(folders) == ["mini/exp/ast", "esc50/exp/ast", "esc50/exp/beats"]
    with pytest.raises(ConfigError, match="twice"):
        legend_names([tmp_path, tmp_path / "."])


def test_runs_are_named_by_the_command(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, range(1, 3))
    runs = read_runs([f"warm up = 10={tmp_path / 'a'}".replace(" = 10", ""), str(tmp_path / "b")])
    assert [run.name for run in runs] == ["warm up", "b"]


def test_two_runs_of_one_name_are_refused(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    with pytest.raises(ConfigError, match="two runs are called y: give each a name of its own"):
        read_runs([f"y={tmp_path / 'x'}", str(tmp_path / "y")])


def test_values_that_are_not_finite_are_points(tmp_path):
    writer = RunWriter(tmp_path, last_step=0, enabled=True)
    for step, value in enumerate((1.0, math.nan, math.inf), start=1):
        writer.scalars({"train/loss": value}, step)
    writer.close()
    values = read_run(tmp_path, "odd").curves["train/loss"].values
    assert values[0] == 1.0 and math.isnan(values[1]) and values[2] == math.inf
