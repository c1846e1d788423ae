"""What a report says about the data, and that it says when a choice was made on the evaluation clips."""

from __future__ import annotations

from audiotag.evaluation.coverage import data_section
from audiotag.evaluation.report import find_evaluations, results_table, write_report
from audiotag.evaluation.results import write_evaluation

EVAL = {
    "listed": 2003,
    "present": 2002,
    "skipped": {"missing": 1},
    "seconds": 7200.0,
    "loudness_dbfs": {"min": -60.0, "median": -24.04, "mean": -25.0, "max": -3.0},
    "features": {"mean": -4.56789, "std": 3.21, "num_clips": 2002},
}
COVERAGE = {
    "eval": EVAL,
    "train": {**EVAL, "listed": 10, "present": 10, "skipped": {}, "seconds": 36.0},
    "valid": {**EVAL, "same_as": "eval"},
    "notes": {"task": "single-label"},
}


def test_a_valid_that_is_a_part_of_eval_is_named():
    text = data_section({**COVERAGE, "valid": {**EVAL, "part_of": "eval"}})
    assert "selected on a part of eval: the clips of `valid` are some of `eval`" in text
    assert "selected on a part" not in data_section(COVERAGE)


def test_every_split_has_a_line_and_notes_are_no_split():
    lines = data_section(COVERAGE).splitlines()
    assert lines[2] == (
        "| split | clips present | hours | median loudness, dBFS | feature mean | feature std | skipped |"
    )
    assert lines[4] == "| train | 10 of 10 (100.0 %) | 0.01 | -24.0 | -4.568 | 3.210 | none |"
    assert lines[6] == "| eval | 2,002 of 2,003 (99.9 %) | 2.00 | -24.0 | -4.568 | 3.210 | missing: 1 |"
    assert sum(line.startswith("|") for line in lines) == 5
    assert "- task: single-label" in lines
    assert "selected on eval: `valid` is `eval` here" in lines[-1]
    assert "the best epoch was chosen on the evaluation clips" in lines[-1]


def test_what_only_some_splits_know_has_a_dash():
    train = {"listed": 1, "present": 1, "seconds": 36.0, "loudness_dbfs": {"median": None}}
    lines = data_section({"train": train, "eval": EVAL}).splitlines()
    assert lines[4] == "| train | 1 of 1 (100.0 %) | 0.01 | - | - | - | none |"
    assert len(lines) == 6


def test_coverage_of_earlier_versions():
    old = {"listed": 400, "present": 398, "skipped": {"missing": 2}, "seconds": 1188.0}
    lines = data_section({"train": old}).splitlines()
    assert lines[2:] == [
        "| split | clips present | hours | skipped |",
        "| --- | --- | ---: | --- |",
        "| train | 398 of 400 (99.5 %) | 0.33 | missing: 2 |",
    ]
    assert data_section({}) == data_section({"notes": {"task": "multi-label"}}) == ""


def test_an_epoch_that_was_chosen_on_eval_is_named_so(tmp_path, make_scores, make_labels):
    scores, labels = make_scores(20, 4), make_labels(4)
    for weights, selected_on in (("best7", "eval"), ("epoch9", None)):
        info = {"split": "eval", "weights": weights, "selected_on": selected_on, "coverage": COVERAGE}
        write_evaluation(tmp_path / f"eval_eval_{weights}", scores, labels, info=info)
    evaluations = find_evaluations(tmp_path)
    assert [row[1] for row in results_table(evaluations).rows] == ["best7 (selected on eval)", "epoch9"]
    text = write_report(tmp_path, evaluations).read_text()
    assert "Selected on eval: the best epoch was chosen by its score on the evaluation clips" in text
    assert "Selected on eval" not in write_report(tmp_path, evaluations[1:]).read_text()
    held_out = {"split": "eval", "weights": "best7", "selected_on": "valid"}
    write_evaluation(tmp_path / "eval_eval_best7", scores, labels, info=held_out)
    assert results_table(find_evaluations(tmp_path)).rows[0][1] == "best7"
