"""`bin/plot.py`: pictures and tables of several runs, and what it says when it cannot draw them."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from audiotag.errors import ConfigError
from audiotag.plotting.overlay import choose_tags, plot_runs, smoothed, write_csv
from audiotag.plotting.runs import Run, TimedCurve, read_runs
from audiotag.training.tensorboard import RunWriter

ROOT = Path(__file__).resolve().parents[2]
BLUE, ORANGE = "#2a6ebb", "#e07b28"


def make_run(name: str, values, tags=("train/loss",)) -> Run:
    """A run with the same curve under some tags."""
    steps = np.arange(1.0, len(values) + 1)
    curve = TimedCurve(steps, np.array(values, float), steps / 10)
    return Run(name, Path(name), dict.fromkeys(tags, curve))


def shows(path: Path, colour: str) -> int:
    """How many pixels of a picture have a colour."""
    pixels = matplotlib.image.imread(path)[..., :3]
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return int((np.abs(pixels - wanted) < 0.01).all(-1).sum())


@pytest.fixture
def experiments(tmp_path):
    """Two runs in exp/."""
    for name, factor in (("small", 1.0), ("large", 0.5)):
        writer = RunWriter(tmp_path / "exp" / name / "tensorboard", last_step=0, enabled=True)
        for step in range(1, 41):
            writer.scalars(
                {"train/loss": factor / step, "train/lr": 1e-3, "train/epoch": 1 + step // 20}, step
            )
        writer.scalars({"valid/mAP": factor}, 40)
        writer.close()
    return tmp_path


def run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The command, in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "audiotag.bin.plot", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_draws_and_lists(experiments):
    done = run_command(
        experiments, "exp/small", "other=exp/large", "--out", "all.png", "--csv", "all.csv", "--x", "epoch"
    )
    assert done.returncode == 0, done.stderr
    assert shows(experiments / "all.png", BLUE) > 200 and shows(experiments / "all.png", ORANGE) > 200
    rows = list(csv.DictReader((experiments / "all.csv").open()))
    assert {row["tag"] for row in rows} == {"train/loss", "valid/mAP", "train/lr"}
    loss = [row for row in rows if row["run"] == "other" and row["tag"] == "train/loss"]
    assert [int(row["step"]) for row in loss] == list(range(1, 41))
    assert [np.float32(row["value"]) for row in loss] == [np.float32(0.5 / step) for step in range(1, 41)]
    assert loss[0]["value"] == "0.5"


def test_the_command_says_what_is_wrong_in_one_line(experiments):
    done = run_command(experiments, "exp/small", "exp/large", "--tags", "train/los")
    assert done.returncode == ConfigError.exit_code
    assert done.stderr.splitlines()[-1].startswith(
        "error: no run has a curve train/los; the nearest are train/loss"
    )
    assert not list(experiments.glob("*.png"))


def test_tags_by_pattern_in_the_order_asked_for(caplog):
    runs = [
        make_run("a", [1], ("valid/mAP", "valid/loss", "train/loss")),
        make_run("b", [1], ("train/loss",)),
    ]
    assert choose_tags(runs, ["train/loss", "valid/*", "valid/loss"]) == [
        "train/loss",
        "valid/loss",
        "valid/mAP",
    ]
    assert "no curve valid/mAP in b" in caplog.text
    assert choose_tags(runs, None) == ["train/loss", "valid/loss", "valid/mAP"]
    assert choose_tags([make_run("c", [1], ("z", "y"))], None) == ["y", "z"]
    with pytest.raises(ConfigError, match=r"a curve valid/map; the nearest are .*valid/mAP"):
        choose_tags(runs, ["valid/map"])
    with pytest.raises(ConfigError, match="nearest are train/loss"):
        choose_tags(runs, ["qqq*"])


def test_smoothing_is_that_of_tensorboard():
    values = np.array([1.0, 3.0, np.nan, 5.0])
    found = smoothed(values, 0.5)
    first = 1.0
    second = (0.25 * 1.0 + 0.5 * 3.0) / 0.75
    last = (0.125 * 1.0 + 0.25 * 3.0 + 0.5 * 5.0) / 0.875
    np.testing.assert_allclose(found, [first, second, np.nan, last])
    assert smoothed(values, 0.0) is values


def test_what_was_measured_stays_behind_what_is_smoothed(tmp_path):
    run = make_run("a", np.sin(np.arange(400)))
    plot_runs([run], ["train/loss"], tmp_path / "plain.png")
    plot_runs([run], ["train/loss"], tmp_path / "smooth.png", smooth=0.95)
    assert 0 < shows(tmp_path / "smooth.png", BLUE) < 0.5 * shows(tmp_path / "plain.png", BLUE)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("axis", ["step", "time"])
def test_equal_pictures_are_equal_files(tmp_path, suffix, axis):
    runs = [make_run("a$x$", [1, np.nan, np.inf, 2]), make_run("b", [3])]
    for name in ("one", "two"):
        plot_runs(runs, ["train/loss"], tmp_path / f"{name}{suffix}", axis=axis, log_scale=True)
    content = (tmp_path / f"one{suffix}").read_bytes()
    assert content == (tmp_path / f"two{suffix}").read_bytes()
    assert content[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")


def test_many_runs_and_tags_and_values_below_zero(tmp_path):
    tags = ("a", "b", "c", "d")
    runs = [make_run(f"run {number}", [-1.0, -2.0], tags) for number in range(10)]
    plot_runs(runs, tags, tmp_path / "many.png", log_scale=True)
    assert matplotlib.image.imread(tmp_path / "many.png").std() > 0.03


def test_points_that_are_not_finite_are_listed(tmp_path):
    write_csv([make_run("a, b", [np.nan, 1.0])], ["train/loss"], tmp_path / "points.csv")
    rows = list(csv.reader((tmp_path / "points.csv").open()))
    assert rows[1:] == [
        ["a, b", "train/loss", "1", "0.10000", "nan"],
        ["a, b", "train/loss", "2", "0.20000", "1.0"],
    ]


@pytest.mark.parametrize("arguments", [("--out", "x.jpg"), ("--smooth", "1"), ("--x", "hours")])
def test_options_that_cannot_be(experiments, arguments):
    done = run_command(experiments, "exp/small", *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr


def test_a_run_read_twice_is_the_same(experiments):
    one, two = (read_runs([str(experiments / "exp/small")])[0] for _ in range(2))
    assert one.curves.keys() == two.curves.keys()
