"""The picture of a training: which curves share an axis, what is called best, and how it is named."""

from __future__ import annotations

import numpy as np
import pytest

from audiotag.evaluation import trainingplot
from audiotag.evaluation.curves import Curve

STEPS = np.array([10, 20, 30])
CURVES = {
    "train/loss": Curve(STEPS, np.array([40.0, 4.0, 3.0])),
    "valid/loss": Curve(STEPS, np.array([0.5, 0.3, 0.4])),
    "valid/mAP": Curve(STEPS, np.array([0.2, 0.6, 0.7])),
    "valid/d_prime": Curve(STEPS, np.array([-0.5, 1.6, 1.7])),
    "valid/espnet_mAP": Curve(STEPS, np.array([20.0, 60.0, 70.0])),
}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A function that plots and returns all axes of the figure: losses, metric, rates, then twins."""
    figures = []
    monkeypatch.setattr(trainingplot, "save", lambda figure, path: figures.append(figure))

    def draw(curves=CURVES, **options):
        trainingplot.plot_training(curves, tmp_path / "x.png", **options)
        figures[-1].canvas.draw()
        return figures[-1].axes

    return draw


def labels(axes) -> list[str]:
    """The names of the lines of some axes."""
    return [line.get_label() for line in axes.get_lines() if not line.get_label().startswith("_")]


def legend(axes) -> list[str]:
    """What the legend names."""
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize("loss", ["ce", "focal"])
def test_another_loss_than_that_of_validation_has_an_axis_of_its_own(drawn, loss):
    axes, _, _, twin = drawn(loss=loss)
    assert (labels(axes), labels(twin)) == ([f"train ({loss})"], ["valid (binary cross-entropy)"])
    assert (axes.get_ylabel(), twin.get_ylabel()) == ("loss", "loss")
    assert legend(axes) == [f"train ({loss})", "valid (binary cross-entropy)"]
    assert twin.yaxis.get_label_position() == "right"
    # Each is scaled by its own values.
    assert (axes.get_yscale(), twin.get_yscale()) == ("log", "linear")
    assert twin.get_ylim()[1] < 1.0 and axes.get_ylim()[1] > 30.0


def test_losses_of_one_kind_share_an_axis(drawn):
    axes, *others = drawn()
    assert len(others) == 2
    assert labels(axes) == legend(axes) == ["train (bce)", "valid (binary cross-entropy)"]
    assert axes.get_ylabel() == "loss"
    axes, *others = drawn({"valid/loss": CURVES["valid/loss"]}, loss="ce")
    assert len(others) == 2
    assert labels(axes) == ["valid (binary cross-entropy)"]


@pytest.mark.parametrize(
    ("metric", "step", "value", "top"),
    [
        ("mAP", 30, "best 0.7000", 1.02),
        ("loss", 20, "best 0.3000", None),
        ("d_prime", 30, "best 1.7000", None),
        ("espnet_mAP", 30, "best 70.0000", None),
    ],
)
def test_the_circle_is_around_the_best_by_the_metric_that_chooses(drawn, metric, step, value, top):
    axes = drawn(metric=metric)[1]
    curve, circle = axes.get_lines()
    np.testing.assert_array_equal(curve.get_ydata(), CURVES[f"valid/{metric}"].values)
    assert circle.get_xdata()[0] == step
    assert [text.get_text() for text in axes.texts] == [value]
    assert (axes.get_title(loc="left"), axes.get_ylabel()) == (f"{metric} on valid", metric)
    low, high = axes.get_ylim()
    assert high == top if top else high >= curve.get_ydata().max()
    assert low <= curve.get_ydata().min()


def test_a_metric_that_was_not_recorded_leaves_a_word(drawn):
    axes = drawn(metric="lwlrap")[1]
    assert [text.get_text() for text in axes.texts] == ["not recorded"]
