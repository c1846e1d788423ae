"""The table over folds: which epoch is chosen by what, and the clips of all folds together."""

from __future__ import annotations

import json

import numpy as np
import pytest

from audiotag.errors import DataError
from audiotag.evaluation.crossvalidation import FoldRun, common_name, epoch_lines, write_crossvalidation
from audiotag.evaluation.results import read_evaluation, write_evaluation
from audiotag.evaluation.scores import Scores
from audiotag.labels import Label, LabelTable

TABLE = LabelTable([Label(index, name, name) for index, name in enumerate(("dog", "rain", "train"))])
# What the AST paper's log has for its chosen epoch of ESC-50.
PUBLISHED = (0.9500, 0.9775, 0.9475, 0.9700, 0.9425)


def fold(number, by_epoch, *, metric="accuracy", is_of_eval=True, evaluations=()):
    return FoldRun(number, metric, by_epoch, is_of_eval, "a title", TABLE, list(evaluations))


def evaluate(folder, hits, *, first=0, weights="epoch2", split="eval", selected_on=None):
    """An evaluation of four clips of which so many are right."""
    labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    logits = np.where(np.arange(4)[:, None] < hits, 4 * labels - 2, 2 - 4 * labels)
    scores = Scores([f"clip-{first + number}" for number in range(4)], logits, labels)
    info = {"split": split, "weights": weights, "selected_on": selected_on}
    info["coverage"] = {"eval": {"listed": 5, "present": 4}}
    write_evaluation(folder / f"eval_{split}_{weights}", scores, TABLE, info=info)
    return read_evaluation(folder / f"eval_{split}_{weights}")


def test_the_epoch_is_the_one_that_is_best_on_average():
    # Each fold's own best epoch is another: 1, 3, 3, 3, 1.
    others = {1: (0.96, 0.93, 0.93, 0.94, 0.95), 2: PUBLISHED, 3: (0.90, 0.98, 0.95, 0.975, 0.94)}
    runs = [fold(n + 1, {epoch: values[n] for epoch, values in others.items()}) for n in range(5)]
    best, last = epoch_lines(runs)
    assert best.weights == "epoch 2, the best on average (selected on the test folds)"
    assert best.split == "eval" and tuple(best.values) == PUBLISHED
    assert best.mean == pytest.approx(0.9575) and best.std == pytest.approx(0.0153093, abs=1e-6)
    assert last.weights == "epoch 3, the last (no selection)"
    assert last.mean == pytest.approx(np.mean(others[3]))


def test_of_equal_epochs_the_earliest_and_of_a_loss_the_lowest():
    best, _ = epoch_lines([fold(1, {1: 0.5, 2: 0.7, 3: 0.6}), fold(2, {1: 0.5, 2: 0.6, 3: 0.7})])
    assert best.weights.startswith("epoch 2,")
    best, _ = epoch_lines(
        [fold(1, {1: 0.9, 2: 0.2}, metric="loss"), fold(2, {1: 0.9, 2: 0.3}, metric="loss")]
    )
    assert best.weights.startswith("epoch 2,")


def test_folds_that_ended_early_have_their_own_last_epoch():
    best, last = epoch_lines([fold(1, {1: 0.5, 2: 0.6, 3: 0.9}), fold(2, {1: 0.4, 2: 0.6})])
    assert best.weights.startswith("epoch 2,")
    assert last.weights == "epoch 3/2, the last (selected on the test folds)" and last.values == [0.9, 0.6]


def test_what_was_held_out_is_not_called_the_test_folds():
    runs = [fold(1, {1: 0.5}, is_of_eval=False), fold(2, {1: 0.7}, is_of_eval=False)]
    best, last = epoch_lines(runs)
    assert best.split == last.split == "valid" and "test folds" not in best.weights
    assert epoch_lines([fold(1, {}), fold(2, {1: 0.7})]) == []


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ("best12", "best"),
        ("best7-avg3", "best-avg3"),
        ("best-step40", "best"),
        ("best-k5", "best-k5"),
        ("epoch25", "epoch25"),
    ],
)
def test_weights_that_each_fold_chose_have_one_name(weights, name):
    assert common_name(weights) == name


def test_the_report_has_folds_and_all_clips_together(tmp_path, caplog):
    runs = []
    for number, hits in ((1, 4), (2, 2)):
        folder = tmp_path / f"fold{number}"
        done = [
            evaluate(folder, hits, first=10 * number),
            evaluate(folder, hits, first=10 * number, weights=f"best{number}", selected_on="eval"),
        ]
        if number == 1:
            done.append(evaluate(folder, 4, first=10, weights="epoch1"))
        runs.append(fold(number, {1: 0.25, 2: hits / 4}, evaluations=done))
    table = write_crossvalidation(tmp_path, runs)
    assert [row[1:4] for row in table.rows] == [
        ["epoch 2, the best on average (selected on the test folds)", "1.0000", "0.5000"],
        ["epoch 2, the last (no selection)", "1.0000", "0.5000"],
        ["stage 6: epoch2", "1.0000", "0.5000"],
        ["stage 6: best (selected on eval, by each fold)", "1.0000", "0.5000"],
    ]
    assert table.rows[0][4:] == ["0.7500", "0.3536"]
    assert "eval, epoch1 is left out: the folds 2 have no such evaluation" in caplog.text
    pooled = read_evaluation(tmp_path / "eval_eval_epoch2")
    assert pooled.metrics["num_clips"] == 8 and pooled.metrics["accuracy"] == 0.75
    assert read_evaluation(tmp_path / "eval_eval_best").selected_on_eval and not pooled.selected_on_eval
    text = (tmp_path / "RESULTS.md").read_text()
    assert "Selected on the test folds: the epoch of the first line" in text
    assert (
        "| eval | best (selected on eval) | 8 | 80.0 % | 3/3 |" in text
        and "[fold 2](fold2/RESULTS.md)" in text
    )
    content = json.loads((tmp_path / "crossvalidation.json").read_text())
    assert content["metric"] == "accuracy" and content["lines"][2]["values"] == [1.0, 0.5]
    assert content["by_epoch"] == {"1": {"1": 0.25, "2": 1.0}, "2": {"1": 0.25, "2": 0.5}}


def test_folds_that_share_clips_are_refused(tmp_path):
    runs = [fold(n, {}, evaluations=[evaluate(tmp_path / f"fold{n}", 3)]) for n in (1, 2)]
    with pytest.raises(
        DataError, match=r"scores of eval do not go together: .*'clip-0' occurs more than once"
    ):
        write_crossvalidation(tmp_path, runs)


def test_folds_without_anything_in_common_are_refused(tmp_path):
    runs = [
        fold(n, {}, evaluations=[evaluate(tmp_path / f"fold{n}", 3, weights=f"epoch{n}")]) for n in (1, 2)
    ]
    with pytest.raises(DataError, match="neither validations nor an evaluation in common; run stage 6"):
        write_crossvalidation(tmp_path, runs)
