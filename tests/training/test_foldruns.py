"""Which folders make one cross-validation, as a user sees it: the command on runs that are not alike."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audiotag.configfile import load_config
from audiotag.errors import CheckpointError, DataError
from audiotag.evaluation.results import write_evaluation
from audiotag.evaluation.scores import Scores
from audiotag.labels import Label, LabelTable
from audiotag.training.checkpoint import save_checkpoint
from audiotag.training.foldruns import read_folds

ROOT = Path(__file__).resolve().parents[2]
TABLE = LabelTable([Label(index, name, name) for index, name in enumerate(("dog", "rain"))])
CONFIG = load_config(ROOT / "egs/esc50/conf/ast_tiny.yaml", ["training.epochs=2"]).model_dump(mode="json")


def write_fold(exp_dir, fold, *overrides, epoch=2, labels=TABLE, of=None, start=None):
    """A finished run of a fold, as stages 5 and 6 leave it."""
    folder = exp_dir / f"fold{fold}"
    config = copy.deepcopy(CONFIG)
    for key, value in (("corpus.fold", of or fold), *overrides):
        section, name = key.split(".")
        config[section][name] = value
        if value is None:  # a key that the version which wrote the file did not know
            del config[section][name]
    state = {
        **{name: {} for name in ("model", "optimizer", "scaler", "metrics")},
        "position": {"epoch": epoch, "step": 3 * epoch},
        "config": config,
        "labels": labels.to_rows(),
        "coverage": {"valid": {"same_as": "eval"}},
        "best": None,
        "init": start,
        "validations": [
            {"file": f"epoch-{n}.pt", "epoch": n, "step": 3 * n, "value": 0.1 * fold + 0.01 * n}
            for n in range(1, epoch + 1)
        ]
        + [{"file": "step-2.pt", "epoch": 1, "step": 2, "value": 0.99}],
    }
    save_checkpoint(folder / f"epoch-{epoch}.pt", state)
    scores = Scores([f"{fold}-{clip}" for clip in range(4)], np.eye(2)[[0, 1, 0, 1]], np.eye(2)[[0, 1, 1, 1]])
    info = {"split": "eval", "weights": f"epoch{epoch}"}
    write_evaluation(folder / f"eval_eval_epoch{epoch}", scores, labels, info=info)


def test_what_the_folds_say(tmp_path):
    for fold in (1, 2, 3):
        write_fold(tmp_path, fold)
    runs = read_folds(tmp_path, 3)
    assert [run.fold for run in runs] == [1, 2, 3]
    assert runs[1].by_epoch == pytest.approx({1: 0.21, 2: 0.22})  # what was measured inside epochs is not
    assert all(run.is_of_eval and run.metric == "accuracy" for run in runs)
    assert runs[0].labels == TABLE and [one.weights for one in runs[2].evaluations] == ["epoch2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"of": 1}, r"fold2 holds a run of fold 1, expected fold 2"),
        ({"epoch": 1}, r"fold2 is not finished: epoch 1 of 2 is done; train on \(--fold 2 --stage 5\)"),
        (
            {"overrides": [("optimizer.lr", 0.5)]},
            r"fold2 was trained with optimizer.lr 0.5, fold 1 with 0.001",
        ),
        ({"overrides": [("corpus.valid", "fold")]}, r"with corpus.valid 'fold', fold 1 with 'eval'"),
        ({"overrides": [("training.epochs", 1)], "epoch": 1}, r"with training.epochs 1, fold 1 with 2"),
        ({"overrides": [("features.mean", -1.0)]}, r"with features.mean -1.0"),
        (
            {"labels": LabelTable([Label(0, "cat", "cat"), Label(1, "x", "x")])},
            "on other classes than fold 1",
        ),
    ],
)
def test_folds_that_are_not_alike_are_refused(tmp_path, change, message):
    write_fold(tmp_path, 1)
    overrides = change.pop("overrides", [])
    write_fold(tmp_path, 2, *overrides, **change)
    with pytest.raises(CheckpointError, match=message):
        read_folds(tmp_path, 2)


def test_what_does_not_make_another_experiment_may_differ(tmp_path):
    measured = [("features.normalization", "corpus"), ("features.std", 4.0)]
    write_fold(tmp_path, 1, *measured, ("features.mean", -4.0))
    write_fold(tmp_path, 2, *measured, ("features.mean", -4.1), ("data.num_workers", 7), ("corpus.dir", "/b"))
    assert len(read_folds(tmp_path, 2)) == 2
    for fold in (1, 2):
        write_fold(tmp_path / "older", fold, *([("corpus.leaks", None)] if fold == 1 else []))
        write_fold(tmp_path / "early", fold, ("training.patience", 1), epoch=3 - fold)
    assert len(read_folds(tmp_path / "older", 2)) == 2
    assert [max(run.by_epoch) for run in read_folds(tmp_path / "early", 2)] == [2, 1]


def test_folds_start_from_one_model_or_each_from_that_of_its_own_fold(tmp_path):
    def starts(name, *folds):
        for fold, behind in zip((1, 2), folds, strict=True):
            start = {"sha256": {"epoch-2.pt": f"digest {fold}"}, "folds": behind}
            write_fold(tmp_path / name, fold, start=start)
        return tmp_path / name

    assert len(read_folds(starts("own", [["esc50", 1]], [["esc50", 2]]), 2)) == 2
    for name, folds in (("other", ([], [])), ("mixed", ([["esc50", 1]], []))):
        with pytest.raises(CheckpointError, match="did not start from the same model as fold 1"):
            read_folds(starts(name, *folds), 2)


def test_missing_folds_are_named(tmp_path):
    with pytest.raises(DataError, match="experiment folder not found"):
        read_folds(tmp_path / "absent", 2)
    write_fold(tmp_path, 1)
    write_fold(tmp_path, 3)
    with pytest.raises(
        CheckpointError, match=r"fold2 has no checkpoint: of 5 folds the runs of 2, 4, 5 are missing"
    ):
        read_folds(tmp_path, 5)


@pytest.mark.slow
def test_the_command_prints_the_table_or_one_line_of_error(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "audiotag.bin.crossvalidate", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    write_fold(tmp_path, 1)
    failed = run("--exp-dir", str(tmp_path), "--folds", "2")
    assert failed.returncode == 4 and "run them (--fold 2)" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    write_fold(tmp_path, 2)
    done = run("--exp-dir", str(tmp_path), "--folds", "2")
    assert done.returncode == 0, done.stderr
    last = next(line for line in done.stdout.splitlines() if "epoch 2, the last (no selection)" in line)
    assert last.split()[-4:] == ["0.1200", "0.2200", "0.1700", "0.0707"]
    assert "EXP_DIR/fold1" in run("--help").stdout
