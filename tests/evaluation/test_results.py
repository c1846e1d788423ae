"""The folder of an evaluation: what it holds, that it is read back as written, how damage is named."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from audiotag.errors import DataError
from audiotag.evaluation.results import read_evaluation, write_evaluation
from audiotag.evaluation.scores import Scores

ALL = '{"metrics": {"mAP": %s}, "classes_without_positives": [], "zero_without_positives": false, "info": {}}'


@pytest.fixture
def folder(tmp_path: Path, make_scores, make_labels) -> Path:
    info = {"split": "eval", "weights": "epoch-3", "file": Path("exp/x/epoch-3.pt"), "title": "Töne"}
    write_evaluation(tmp_path / "exp" / "eval_eval_epoch-3", make_scores(30, 5), make_labels(5), info=info)
    return tmp_path / "exp" / "eval_eval_epoch-3"


def test_the_folder_holds_files_of_the_documented_form(folder, make_labels):
    names = ["metrics.json", "per_class.csv", "scores.npz", "thresholds.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    text = (folder / "metrics.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    keys = "calibration checksum classes_without_positives info intervals metrics resamplings sha256"
    assert sorted(content) == [*keys.split(), "zero_without_positives"]
    assert content["metrics"]["num_clips"] == 30
    assert content["classes_without_positives"] == ["Sound 4"]
    assert content["info"]["file"] == "exp/x/epoch-3.pt"
    assert "Töne" in text
    with (folder / "per_class.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ["index", "mid", "name", "positives", "AP", "AUC", "F1", "best_F1", "threshold"]
    assert list(rows[0]) == columns
    assert [row["name"] for row in rows] == make_labels(5).names
    assert [row["mid"] for row in rows] == [label.mid for label in make_labels(5)]
    assert [rows[4][name] for name in columns[3:]] == ["0", "", "", "", "", ""]


def test_it_is_read_back_as_written(folder, make_scores, make_labels):
    scores = make_scores(30, 5)
    metrics = write_evaluation(folder, scores, make_labels(5), info={"split": "eval", "weights": "again"})
    evaluation = read_evaluation(folder)
    assert evaluation.metrics == metrics.summary
    assert (evaluation.split, evaluation.weights) == ("eval", "again")
    assert evaluation.classes_without_positives == ["Sound 4"]
    assert [one.positives for one in evaluation.classes] == metrics.positives.tolist()
    for name in ("ap", "auc", "f1", "best_f1"):
        read = np.array([getattr(one, name) for one in evaluation.classes])
        np.testing.assert_allclose(read, getattr(metrics, name), atol=5e-7)
    read = np.array([one.threshold for one in evaluation.classes])
    np.testing.assert_allclose(read, 1 / (1 + np.exp(-metrics.thresholds)), atol=5e-7)
    assert math.isnan(evaluation.classes[4].ap)
    np.testing.assert_array_equal(evaluation.bins, metrics.bins)
    assert (evaluation.intervals, evaluation.resamplings) == ({}, 0)
    np.testing.assert_array_equal(evaluation.scores().logits, scores.logits)


def test_a_folder_of_an_earlier_version_is_read(folder):
    path = folder / "metrics.json"
    content = json.loads(path.read_text())
    for key in ("intervals", "resamplings", "calibration", "sha256", "checksum"):
        del content[key]
    path.write_text(json.dumps(content))
    with (folder / "per_class.csv").open(newline="", encoding="utf-8") as file:
        rows = [row[:7] for row in csv.reader(file)]
    with (folder / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    evaluation = read_evaluation(folder)
    assert (evaluation.intervals, evaluation.resamplings, evaluation.bins) == ({}, 0, None)
    assert evaluation.classes[0].ap > 0
    assert math.isnan(evaluation.classes[0].threshold)


def test_intervals_are_kept_and_depend_on_the_seed(tmp_path, make_scores, make_labels):
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_evaluation(
            tmp_path / name, make_scores(40, 5), make_labels(5), info={}, bootstrap=60, seed=seed
        )
        found.append(read_evaluation(tmp_path / name))
    assert found[0].resamplings == 60
    assert found[0].intervals == found[1].intervals != found[2].intervals
    for name in ("mAP", "mAUC", "lwlrap", "f1_macro", "accuracy", "loss"):
        low, high = found[0].intervals[name]
        assert low < found[0].metrics[name] < high, name


def test_without_info_the_folder_name_speaks(tmp_path, make_scores, make_labels):
    folder = tmp_path / "eval_valid_best"
    write_evaluation(folder, make_scores(9, 5), make_labels(5), info={})
    evaluation = read_evaluation(folder)
    assert (evaluation.split, evaluation.weights) == ("valid", "eval_valid_best")


def test_zero_without_positives_reaches_the_metrics_and_is_recorded(tmp_path, make_scores, make_labels):
    scores, labels = make_scores(30, 5), make_labels(5)
    out = write_evaluation(tmp_path / "a", scores, labels, info={})
    zero = write_evaluation(tmp_path / "b", scores, labels, info={}, zero_without_positives=True)
    assert zero.summary["mAP"] == pytest.approx(out.summary["mAP"] * 4 / 5)
    assert read_evaluation(tmp_path / "b").zero_without_positives
    assert not read_evaluation(tmp_path / "a").zero_without_positives


def test_bad_scores_name_the_clips_and_leave_the_old_results(folder, make_scores, make_labels):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    scores = make_scores(30, 5)
    scores.logits[7, 0] = np.nan
    with pytest.raises(DataError, match="-clip_7"):
        write_evaluation(folder, scores, make_labels(5), info={})
    with pytest.raises(DataError, match="6 labels, but the scores have 5 classes"):
        write_evaluation(folder, make_scores(30, 5), make_labels(6), info={})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_evaluation(folder, make_scores(30, 5), make_labels(5), info={"seconds": math.nan})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_write_cut_short_leaves_what_was_there_and_does_not_look_finished(folder, tmp_path, make_labels):
    class Interrupted(Scores):
        def save(self, path):
            super().save(path)
            raise KeyboardInterrupt

    scores = Interrupted(["a"], np.zeros((1, 5)), np.ones((1, 5)))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for place in (folder, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            write_evaluation(place, scores, make_labels(5), info={})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(DataError, match=r"no evaluation in .*metrics\.json is missing; run stage 6"):
        read_evaluation(tmp_path / "new")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"metrics": {}}', '{"metrics": 3}', "\ud800", "[" * 10**5, ALL % '"high"', ALL % "true"],
)
def test_damaged_metrics_are_named(folder, text):
    (folder / "metrics.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match=r"metrics\.json: not the metrics of an evaluation, or damaged"):
        read_evaluation(folder)


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n", "index,mid,name,positives,AP,AUC,F1\n0,/m/0,Tone\n", "index,mid,name,positives,AP,AUC,F1\n"
     "0,/m/0,Tone,3,high,,\n", "index,mid,name,positives,AP,AUC,F1\n0,/m/0,Tone,3,0.5\n"],
)  # fmt: skip
def test_a_damaged_class_table_is_named(folder, text):
    (folder / "per_class.csv").write_text(text)
    with pytest.raises(DataError, match=r"per_class\.csv: not a table of classes"):
        _ = read_evaluation(folder).classes
    (folder / "per_class.csv").unlink()
    with pytest.raises(DataError, match=r"per_class\.csv is missing"):
        _ = read_evaluation(folder).classes
