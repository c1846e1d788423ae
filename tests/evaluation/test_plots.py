"""The pictures: drawn on disk, of the expected size, with what they are about on them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from audiotag.evaluation.curves import Curve, read_curves
from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.plots import (
    DPI,
    NAME_LENGTH,
    plot_per_class,
    plot_precision_recall,
    short,
)
from audiotag.evaluation.reliability import plot_reliability
from audiotag.evaluation.results import read_evaluation, write_evaluation
from audiotag.evaluation.trainingplot import plot_training


def read_picture(path: Path) -> np.ndarray:
    """Pixels (H,W,3) of a PNG that is neither empty nor all of one colour."""
    pixels = matplotlib.image.imread(path)[..., :3]
    assert pixels.std() > 0.03
    return pixels


def shows(pixels: np.ndarray, colour: str) -> int:
    """How many pixels have a colour such as #2a6ebb."""
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return int((np.abs(pixels - wanted) < 0.01).all(-1).sum())


@pytest.mark.parametrize(("num_classes", "width", "height"), [(10, 8.5, 1.4 + 0.27 * 9), (527, 13.0, 9.4)])
def test_per_class_bars(tmp_path, make_scores, make_labels, num_classes, width, height):
    write_evaluation(tmp_path / "e", make_scores(40, num_classes), make_labels(num_classes), info={})
    evaluation = read_evaluation(tmp_path / "e")
    plot_per_class(evaluation.classes, evaluation.metrics["mAP"], tmp_path / "bars.png")
    pixels = read_picture(tmp_path / "bars.png")
    assert pixels.shape[:2] == pytest.approx((height * DPI, width * DPI), abs=1)
    assert shows(pixels, "#2a6ebb") > 0.02 * pixels.shape[0] * pixels.shape[1]


def test_many_classes_show_the_best_and_the_worst(tmp_path, make_scores, make_labels):
    write_evaluation(tmp_path / "e", make_scores(300, 80), make_labels(80), info={})
    plot_per_class(read_evaluation(tmp_path / "e").classes, 0.5, tmp_path / "bars.png")
    pixels = read_picture(tmp_path / "bars.png")
    lower, middle = pixels[pixels.shape[0] // 2 :], pixels.shape[1] // 2
    best, worst = shows(lower[:, :middle], "#2a6ebb"), shows(lower[:, middle:], "#2a6ebb")
    assert 0 < worst < 0.97 * best


def test_longer_bars_for_better_classes(tmp_path, make_scores, make_labels):
    blue = {}
    for name, factor in (("bad", -1.0), ("good", 1.0)):
        scores = make_scores(60, 10)
        scores.logits *= factor
        write_evaluation(tmp_path / name, scores, make_labels(10), info={})
        plot_per_class(read_evaluation(tmp_path / name).classes, None, tmp_path / f"{name}.png")
        blue[name] = shows(read_picture(tmp_path / f"{name}.png"), "#2a6ebb")
    assert blue["good"] > 2 * blue["bad"]


def test_precision_recall_draws_the_micro_curve_and_five_classes(tmp_path, make_scores, make_labels):
    scores = make_scores(60, 10)
    write_evaluation(tmp_path / "e", scores, make_labels(10), info={})
    plot_precision_recall(scores, read_evaluation(tmp_path / "e").classes, tmp_path / "pr.png")
    pixels = read_picture(tmp_path / "pr.png")
    for colour in ("#22272e", "#2f9e6e", "#2a6ebb", "#7d5ba6", "#e07b28", "#c8443f"):
        assert shows(pixels, colour) > 100, colour


def test_pictures_without_any_positive(tmp_path, make_scores, make_labels):
    scores = make_scores(5, 4)
    scores.labels[:] = 0
    write_evaluation(tmp_path / "e", scores, make_labels(4), info={})
    evaluation = read_evaluation(tmp_path / "e")
    plot_per_class(evaluation.classes, evaluation.metrics["mAP"], tmp_path / "bars.png")
    plot_precision_recall(scores, evaluation.classes, tmp_path / "pr.png")
    read_picture(tmp_path / "pr.png")


def test_training_curves(tmp_path, experiment):
    plot_training(read_curves(experiment / "tensorboard"), tmp_path / "training.png")
    pixels = read_picture(tmp_path / "training.png")
    assert pixels.shape[:2] == (3.8 * DPI, 13.0 * DPI)
    for colour in ("#2a6ebb", "#e07b28", "#2f9e6e"):
        assert shows(pixels, colour) > 100, colour


@pytest.mark.parametrize("num_points", [1, 2, 61, 5000])
def test_training_curves_of_any_length_and_with_odd_values(tmp_path, num_points):
    steps = np.arange(1, num_points + 1)
    values = 1.0 / steps
    values[num_points // 2] = np.nan
    curves = {
        "train/loss": Curve(steps, values),
        "valid/mAP": Curve(steps, values),
        "other": Curve(steps, values),
    }
    plot_training(curves, tmp_path / "training.png")
    read_picture(tmp_path / "training.png")


def test_reliability_draws_the_bins_and_the_diagonal(tmp_path, make_scores):
    scores = make_scores(400, 10)
    metrics = compute_metrics(scores.logits, scores.labels)
    plot_reliability(metrics.bins, metrics.summary["ece_micro"], tmp_path / "r.png")
    pixels = read_picture(tmp_path / "r.png")
    assert shows(pixels, "#2a6ebb") > 1000
    assert shows(pixels, "#6b7480") > 100
    plot_reliability(np.zeros((3, 15)), None, tmp_path / "empty.png")
    assert shows(read_picture(tmp_path / "empty.png"), "#2a6ebb") == 0


def test_equal_pictures_are_equal_files(tmp_path, experiment):
    curves = read_curves(experiment / "tensorboard")
    for name in ("a.png", "b.png"):
        plot_training(curves, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_names_are_cut_and_escaped():
    assert short("Tone") == "Tone"
    assert short("$x^2$") == r"\$x^2\$"
    long = short("Wind instrument, woodwind instrument, and more")
    assert len(long) <= NAME_LENGTH
    assert long.endswith("…")


def test_importing_plots_does_not_import_matplotlib():
    code = "import sys, audiotag.evaluation.report; sys.exit('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert done.returncode == 0
