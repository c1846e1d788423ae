"""What `report --require` asks of evaluations."""

from __future__ import annotations

import json

import pytest

from audiotag.errors import AudiotagError, ConfigError
from audiotag.evaluation.report import check_requirements, find_evaluations, results_table, write_report
from audiotag.evaluation.results import write_evaluation
from audiotag.evaluation.scores import Scores


def test_requirements(tmp_path, make_scores, make_labels):
    scores, labels = make_scores(20, 4), make_labels(4)
    write_evaluation(tmp_path / "eval_eval_a", scores, labels, info={})
    evaluations = find_evaluations(tmp_path)
    value = evaluations[0].metrics["mAP"]
    check_requirements([f"mAP>={value}", f"mAP<={value}", " mAP > 0.1 ", "loss<9"], evaluations)
    for broken in (f"mAP>{value}", f"mAP<{value}", "mAP>=1.1"):
        with pytest.raises(AudiotagError, match=r"mAP is .* required"):
            check_requirements([broken], evaluations)
    for wrong in ("mAP", "mAP=0.5", "mAP>=", "mAP>=high", "mAP>=0.5>=0.4"):
        with pytest.raises(ConfigError, match="expected METRIC>=NUMBER"):
            check_requirements([wrong], evaluations)
    with pytest.raises(ConfigError, match=r"unknown metric 'map' \(known: mAP, mAUC"):
        check_requirements(["map>=0.5"], evaluations)


def test_a_metric_that_does_not_exist_meets_no_requirement(tmp_path, make_scores, make_labels):
    scores = make_scores(20, 4)
    scores.labels[:] = 0
    write_evaluation(tmp_path / "eval_eval_a", scores, make_labels(4), info={})
    with pytest.raises(AudiotagError, match="mAP is -, required >= 0"):
        check_requirements(["mAP>=0"], find_evaluations(tmp_path))


def test_tuned_metrics_are_asked_of_those_that_have_them(tmp_path, make_scores, make_labels):
    for split, seed in (("valid", 1), ("eval", 2)):
        info = {"split": split, "weights": "a"}
        write_evaluation(tmp_path / f"eval_{split}_a", make_scores(40, 4, seed), make_labels(4), info=info)
    evaluations = find_evaluations(tmp_path)
    value = evaluations[0].metrics["f1_micro_tuned"]
    assert "f1_micro_tuned" not in evaluations[1].metrics
    check_requirements([f"f1_micro_tuned>={value}", "f1_macro_tuned>0"], evaluations)
    with pytest.raises(AudiotagError, match=r"eval_eval_a: f1_micro_tuned is .*, required > "):
        check_requirements([f"f1_micro_tuned>{value}"], evaluations)
    with pytest.raises(ConfigError, match="no evaluation has f1_micro_tuned, which needs"):
        check_requirements(["f1_micro_tuned>=0"], evaluations[1:])


@pytest.mark.parametrize(("factor", "shown"), [(1.0, "inf"), (-1.0, "-inf")])
def test_d_prime_of_a_perfect_ranking_is_infinite(tmp_path, make_scores, make_labels, factor, shown):
    scores = make_scores(20, 4)
    perfect = Scores(scores.ids, factor * (2.0 * scores.labels - 1.0), scores.labels)
    write_evaluation(tmp_path / "eval_eval_a", perfect, make_labels(4), info={})
    stored = json.loads((tmp_path / "eval_eval_a" / "metrics.json").read_text())["metrics"]
    assert stored["d_prime"] is None
    evaluations = find_evaluations(tmp_path)
    check_requirements(["d_prime>=1" if factor > 0 else "d_prime<=-1"], evaluations)
    with pytest.raises(AudiotagError, match=f"d_prime is {shown}, required"):
        check_requirements(["d_prime<1" if factor > 0 else "d_prime>-1"], evaluations)
    [row] = results_table(evaluations).rows
    assert row[7] == shown
    assert f"| `d_prime` | {shown} | - |" in write_report(tmp_path, evaluations).read_text()


def test_without_any_positive_there_is_no_d_prime(tmp_path, make_scores, make_labels):
    scores = make_scores(20, 4)
    scores.labels[:] = 0
    write_evaluation(tmp_path / "eval_eval_a", scores, make_labels(4), info={})
    with pytest.raises(AudiotagError, match="d_prime is -, required"):
        check_requirements(["d_prime>=1"], find_evaluations(tmp_path))
