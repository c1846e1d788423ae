"""Scores with known properties, and an experiment folder with real TensorBoard files, for these tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from audiotag.config import Config
from audiotag.configfile import dump_yaml
from audiotag.evaluation.results import write_evaluation
from audiotag.evaluation.scores import Scores
from audiotag.labels import Label, LabelTable

COVERAGE = {
    "train": {"listed": 400, "present": 398, "skipped": {"missing": 1, "too short": 1}, "seconds": 1188.0},
    "eval": {"listed": 2003, "present": 2002, "skipped": {"missing": 1}, "seconds": 360.0},
}
INFO = {
    "split": "eval",
    "weights": "epoch-10-avg-2",
    "checkpoints": ["epoch-9.pt", "epoch-10.pt"],
    "coverage": COVERAGE,
    "provenance": {"python": "3.11.7", "git": "0123456789ab", "command": "python -m audiotag.bin.evaluate X"},
}


@pytest.fixture
def make_labels():
    """A label table of any size; names with a comma, a pipe and a dollar sign among them."""

    def make(num_classes: int) -> LabelTable:
        odd = ["Siren, two-tone", "Left | right", "Cash $ register $"]
        names = [*odd, *(f"Sound {index}" for index in range(3, num_classes))]
        return LabelTable([Label(index, f"/m/{index:03d}", names[index]) for index in range(num_classes)])

    return make


@pytest.fixture
def make_scores():
    """Scores whose higher logits go with the labels; the last class never has a positive."""

    def make(num_clips: int, num_classes: int, seed: int = 0) -> Scores:
        rng = np.random.default_rng(seed)
        labels = rng.random((num_clips, num_classes)) < 0.2
        labels[0], labels[:, -1] = True, False
        logits = rng.standard_normal((num_clips, num_classes)) + 3.0 * labels - 2.0
        return Scores([f"-clip_{row}" for row in range(num_clips)], logits, labels)

    return make


@pytest.fixture
def experiment(tmp_path: Path, make_scores, make_labels) -> Path:
    """exp/tiny with config.yaml, TensorBoard curves of 20 updates and one evaluation of 10 classes."""
    folder = tmp_path / "exp" / "tiny"
    write_evaluation(folder / "eval_eval_epoch-10-avg-2", make_scores(60, 10), make_labels(10), info=INFO)
    (folder / "config.yaml").write_text(dump_yaml(Config(title="a tiny run", seed=7)), encoding="utf-8")
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for step in range(1, 21):
            writer.add_scalar("train/loss", 0.7 / step, step)
            writer.add_scalar("train/lr", 1e-3 * step / 20, step)
            writer.add_scalar("train/clips_per_s", 50.0 + step, step)
        for step, value in ((5, 0.25), (10, 0.75), (15, 0.5), (20, 0.5)):
            writer.add_scalar("valid/mAP", value, step)
            writer.add_scalar("valid/loss", 1.0 / step, step)
    return folder
