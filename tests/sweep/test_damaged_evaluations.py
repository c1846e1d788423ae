"""Damaged results and configurations: scores, metrics, classes, YAML, event files, whole reports."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from audiotag.config import Config
from audiotag.configfile import dump_yaml, load_config
from audiotag.evaluation.curves import read_curves
from audiotag.evaluation.report import find_evaluations, read_config, write_report
from audiotag.evaluation.results import read_evaluation, write_evaluation
from audiotag.evaluation.scores import Scores
from audiotag.evaluation.thresholds import read_thresholds
from audiotag.eventrecords import event_files
from audiotag.plotting.runs import read_run
from audiotag.training.eventhistory import cut_history
from tests.sweep.anydamage import damages, sweep
from tests.tiny import tiny_labels

POINTS = {
    "train/loss": {step: 0.7 / step for step in range(1, 21)},
    "valid/mAP": {5: 0.25, 10: 0.75, 20: 0.5},
}


@pytest.fixture(scope="module")
def experiment(module_folder) -> Path:
    """A run's folder with an evaluation, a configuration and curves."""
    rng = np.random.default_rng(0)
    labels = rng.random((20, 3)) < 0.4
    labels[0], labels[1] = True, False
    scores = Scores([f"-clip_{row}" for row in range(20)], rng.standard_normal((20, 3)) + labels, labels)
    info = {
        "split": "eval",
        "weights": "epoch-3",
        "checkpoints": ["epoch-3.pt"],
        "sha256": {"epoch-3.pt": "0" * 64},
    }
    write_evaluation(module_folder / "eval_eval_epoch-3", scores, tiny_labels(), info=info)
    (module_folder / "config.yaml").write_text(
        dump_yaml(Config(title="a tiny run", seed=7)), encoding="utf-8"
    )
    with SummaryWriter(str(module_folder / "tensorboard")) as writer:
        for tag, points in POINTS.items():
            for step, value in points.items():
                writer.add_scalar(tag, value, step)
    return module_folder


@pytest.fixture
def evaluation(experiment) -> Path:
    return experiment / "eval_eval_epoch-3"


def values_of(scores: Scores) -> tuple:
    return scores.ids, scores.logits.tolist(), scores.labels.tolist()


def test_scores(evaluation):
    path = evaluation / "scores.npz"
    good = values_of(Scores.load(path))
    assert sweep(path, lambda: Scores.load(path), lambda found: values_of(found) == good) > 150


def test_metrics(evaluation):
    def summary() -> dict[str, Any]:
        found = read_evaluation(evaluation)
        return {
            "metrics": found.metrics,
            "info": found.info,
            "bins": found.bins.tolist(),
            "sha256": found.sha256,
        }

    good = summary()
    assert sweep(evaluation / "metrics.json", summary, lambda found: found == good) > 150


def test_classes(evaluation):
    good = repr(read_evaluation(evaluation).classes)
    path = evaluation / "per_class.csv"
    assert sweep(path, lambda: repr(read_evaluation(evaluation).classes), lambda found: found == good) > 150


def test_thresholds_of_an_evaluation(evaluation):
    path = evaluation / "thresholds.json"
    good = read_thresholds(path, tiny_labels()).by_class.tolist()

    def same(found) -> bool:
        return found.by_class.tolist() == good

    assert sweep(path, lambda: read_thresholds(path, tiny_labels()), same) > 150


@pytest.mark.parametrize("reader", ["load", "include", "report"])
def test_configurations(experiment, reader):
    """People write YAML, so that another digit in it is believed; but it is never half read."""
    path = experiment / "config.yaml"
    outer = experiment / "outer.yaml"
    outer.write_text("include: config.yaml\n")
    read_it = {
        "load": lambda: load_config(path),
        "include": lambda: load_config(outer),
        "report": lambda: read_config(path),
    }[reader]
    good = read_it()
    assert sweep(path, read_it, lambda found: found == good, believed=True) > 150


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "scores.npz", "per_class.csv", "events"])
def test_reports(experiment, evaluation, name):
    """A few of the damages, since a report takes a second: it is written as before, or not at all."""
    [events] = event_files(experiment / "tensorboard")
    path = {"config.yaml": experiment / name, "events": events}.get(name, evaluation / name)
    good = path.read_bytes()
    report = write_report(experiment, find_evaluations(experiment)).read_text()
    table = report[report.index("| split") : report.index("### Training")]
    try:
        for what, change in list(damages(1))[5::23]:
            path.write_bytes(change(good))
            (experiment / "RESULTS.md").unlink(missing_ok=True)
            try:
                found = write_report(experiment, find_evaluations(experiment)).read_text()
            except Exception as error:
                assert type(error).__name__ in ("DataError", "ConfigError"), f"{what}: {error!r}"
                assert str(path) in str(error), f"{what}: {error}"
                assert not (experiment / "RESULTS.md").exists()
                continue
            assert table in found, what
    finally:
        path.write_bytes(good)


def is_part(curves: dict[str, Any]) -> bool:
    """Whether all points of some curves are those that were written."""
    return all(
        np.float32(POINTS[tag][int(step)]) == np.float32(value)
        for tag, curve in curves.items()
        for step, value in zip(curve.steps, curve.values, strict=True)
    )


@pytest.mark.parametrize("reader", ["report", "plot", "resume"])
def test_event_files(experiment, tmp_path, reader):
    """What can still be read of a curve is what was written."""
    shutil.copytree(experiment / "tensorboard", tmp_path / "tensorboard")
    [path] = event_files(tmp_path / "tensorboard")
    good = path.read_bytes()

    def resumed() -> dict[str, Any]:
        for other in path.parent.iterdir():
            if other != path:
                other.unlink()
        cut_history(path.parent, last_step=20)
        found = read_curves(path.parent)
        path.write_bytes(good)
        return found

    read_it = {
        "report": lambda: read_curves(path.parent),
        "plot": lambda: read_run(tmp_path, "a run").curves,
        "resume": resumed,
    }[reader]
    # A run without curves is refused as a whole.
    named = tmp_path if reader == "plot" else path
    assert sweep(path, read_it, is_part, named=named) > 150
