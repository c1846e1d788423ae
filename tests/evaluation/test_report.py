"""RESULTS.md and the report command, on a folder with real TensorBoard files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from audiotag.errors import AudiotagError, ConfigError, DataError
from audiotag.evaluation.report import check_requirements, find_evaluations, results_table, write_report
from audiotag.evaluation.results import write_evaluation
from audiotag.evaluation.tables import Table, number, percent, share

ROOT = Path(__file__).resolve().parents[2]


def run_report(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """The command as stage 7 runs it."""
    return subprocess.run(
        [sys.executable, "-m", "audiotag.bin.report", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_prints_the_table_and_writes_the_report(experiment):
    work = experiment.parents[1]
    done = run_report("--exp-dir", "exp/tiny", "--require", "mAP>=0.5", cwd=work)
    assert done.returncode == 0, done.stderr
    header, rule, row = done.stdout.splitlines()
    assert header.split()[:5] == ["split", "weights", "clips", "coverage", "classes"]
    assert set(rule) == {"-", " "}
    evaluation = find_evaluations(experiment)[0]
    expected = ["eval", "epoch-10-avg-2", "60", "99.9", "%", "9/10"]
    metrics = [evaluation.metrics[key] for key in ("mAP", "mAUC", "d_prime", "f1_micro", "f1_macro")]
    assert row.split()[:11] == [*expected, *(f"{value:.4f}" for value in metrics)]

    text = (experiment / "RESULTS.md").read_text(encoding="utf-8")
    for piece in (
        "- git: `0123456789ab`",
        "## tiny: a tiny run",
        "| eval | epoch-10-avg-2 | 60 | 99.9 % | 9/10 |",
        "| train | 398 of 400 (99.5 %) | 0.33 | missing: 1, too short: 1 |",
        "coverage: 2,002 of 2,003 (99.9 %) listed clips present, skipped: missing: 1",
        "classes without positive clips: 1 (Sound 9)",
        "best validation mAP 0.7500 at update 10",
        "20 updates; training loss at the end 0.0350",
        "python -m audiotag.bin.evaluate X",
        "with seed 7",
        "`epoch-9.pt`, `epoch-10.pt`",
        "Left \\| right",
        "name ast, embed_dim 768",
    ):
        assert piece in text, piece
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) == 4
    for picture in pictures:
        assert (experiment / picture).read_bytes().startswith(b"\x89PNG")
    for link in re.findall(r"(?<!!)\[[^\]]+\]\(([^)]+)\)", text):
        assert (experiment / link).exists(), link


def test_intervals_conditions_and_digests_are_told(tmp_path, make_scores, make_labels):
    info = {
        "split": "eval",
        "weights": "best3",
        "weights_in_words": "trained weights of epoch-3.pt, chosen by validation",
        "checkpoints": ["epoch-3.pt"],
        "sha256": {"epoch-3.pt": "0f" * 32},
        "device": "cpu",
        "precision": "float32",
        "processes": 4,
        "clips_per_s": 12.34,
        "batch_size": 32,
        "batch_independent": False,
        "windows": {"window_s": 10.0, "clips_in_windows": 7},
    }
    write_evaluation(
        tmp_path / "eval_eval_best3", make_scores(60, 6), make_labels(6), info=info, bootstrap=100
    )
    [evaluation] = find_evaluations(tmp_path)
    text = write_report(tmp_path, [evaluation]).read_text()
    low, high = evaluation.intervals["mAP"]
    for piece in (
        "95 % confidence intervals over the choice of clips, from 100 resamplings",
        f"| eval | best3 | {low:.4f} to {high:.4f} |",
        f"| `mAP` | {evaluation.metrics['mAP']:.4f} | {low:.4f} to {high:.4f} | mean over classes of the",
        "| `espnet_mAP` | ",
        "- weights: trained weights of epoch-3.pt, chosen by validation",
        f"- checkpoints: `epoch-3.pt` (sha256 `{'0f' * 32}`)",
        "- scored on cpu; float32; 4 processes; 12.3 clips/s; batches of 32, whose clips depend on "
        "each other; windows: window_s 10.0, clips_in_windows 7",
        "| class | positives | AP | AUC | F1 | best F1 | threshold |",
        "(eval_eval_best3_reliability.png)",
    ):
        assert piece in text, piece
    assert "f1_micro_tuned" not in text


def test_without_resamplings_there_are_no_intervals(experiment):
    assert "confidence intervals" not in write_report(experiment, find_evaluations(experiment)).read_text()


def test_a_second_report_is_the_same(experiment):
    evaluations = find_evaluations(experiment)
    write_report(experiment, evaluations)
    before = {path.name: path.read_bytes() for path in experiment.iterdir() if path.is_file()}
    write_report(experiment, find_evaluations(experiment))
    assert {path.name: path.read_bytes() for path in experiment.iterdir() if path.is_file()} == before


def test_without_tensorboard_files_it_says_so(experiment):
    shutil.rmtree(experiment / "tensorboard")
    text = write_report(experiment, find_evaluations(experiment)).read_text()
    assert "There are no TensorBoard files" in text
    assert "training.png" not in text
    assert not (experiment / "training.png").exists()


def test_scores_alone_are_enough(tmp_path, make_scores, make_labels):
    write_evaluation(tmp_path / "x" / "eval_eval_a", make_scores(20, 4), make_labels(4), info={})
    text = write_report(tmp_path / "x", find_evaluations(tmp_path / "x")).read_text()
    assert "| eval | eval_eval_a | 20 | - | 3/4 |" in text
    assert "Environments" not in text
    assert "Data\n" not in text


def test_many_classes_are_shown_by_their_ends(tmp_path, make_scores, make_labels):
    folder = tmp_path / "x" / "eval_eval_a"
    write_evaluation(folder, make_scores(50, 80), make_labels(80), info={})
    evaluations = find_evaluations(tmp_path / "x")
    text = write_report(tmp_path / "x", evaluations).read_text()
    ranked = sorted((one for one in evaluations[0].classes if one.positives), key=lambda one: one.ap)
    best, worst = text.split("Best classes:")[1].split("Worst classes:")
    assert f"| {ranked[-1].ap:.4f} |" in best.splitlines()[4]
    assert f"| {ranked[0].ap:.4f} |" in worst.splitlines()[4]
    assert len([line for line in (best + worst).splitlines() if line.startswith("|")]) == 2 * 12


def test_several_evaluations_are_listed_in_order(tmp_path, make_scores, make_labels):
    scores, labels = make_scores(20, 4), make_labels(4)
    for split, weights in (("valid", "epoch-9"), ("eval", "epoch-10"), ("eval", "epoch-9"), ("eval", "best")):
        info = {"split": split, "weights": weights}
        write_evaluation(tmp_path / f"eval_{split}_{weights}", scores, labels, info=info)
    (tmp_path / "eval_eval_unfinished").mkdir()
    rows = results_table(find_evaluations(tmp_path)).rows
    assert [row[:2] for row in rows] == [
        ["eval", "best"],
        ["eval", "epoch-9"],
        ["eval", "epoch-10"],
        ["valid", "epoch-9"],
    ]


def test_zero_without_positives_is_said(tmp_path, make_scores, make_labels):
    scores, labels = make_scores(20, 4), make_labels(4)
    write_evaluation(tmp_path / "eval_eval_a", scores, labels, info={}, zero_without_positives=True)
    assert "count as AP 0 in mAP" in write_report(tmp_path, find_evaluations(tmp_path)).read_text()


def test_the_title_may_come_from_the_given_config(experiment):
    config = experiment.parents[1] / "new.yaml"
    config.write_text("title: another title\n")
    arguments = ("--exp-dir", str(experiment), "--config", str(config))
    assert run_report(*arguments, cwd=experiment).returncode == 0
    assert "## tiny: another title" in (experiment / "RESULTS.md").read_text()
    done = run_report(*arguments, "--set", "titel=x", cwd=experiment)
    assert done.returncode == ConfigError.exit_code
    assert "unknown key 'titel'" in done.stderr


def test_a_floor_that_is_not_reached_fails_with_one_line(experiment):
    done = run_report("--exp-dir", "exp/tiny", "--require", "mAP>=0.9999", cwd=experiment.parents[1])
    assert done.returncode == AudiotagError.exit_code
    assert "mAP" in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    expected = r"error: exp/tiny/eval_eval_epoch-10-avg-2: mAP is 0\.\d{4}, required >= 0\.9999 \(eval, epoch"
    assert re.match(expected, line)
    assert "Traceback" not in done.stderr


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


def test_missing_results_name_the_stage(tmp_path):
    with pytest.raises(DataError, match=r"experiment folder not found: .*stages 5 and 6"):
        find_evaluations(tmp_path / "none")
    with pytest.raises(DataError, match=r"no evaluation in .*run stage 6"):
        find_evaluations(tmp_path)
    done = run_report("--exp-dir", str(tmp_path / "none"), cwd=tmp_path)
    assert done.returncode == DataError.exit_code
    assert done.stderr.count("\n") == 1


def test_a_damaged_config_is_named(experiment):
    (experiment / "config.yaml").write_text("a: [1")
    with pytest.raises(DataError, match=r"config\.yaml: not valid YAML"):
        write_report(experiment, find_evaluations(experiment))


def test_tables():
    table = Table(["name", "n"], [["a|b\nc", "5"], ["long name", "1,234"]], frozenset({"n"}))
    assert table.markdown() == "| name | n |\n| --- | ---: |\n| a\\|b c | 5 |\n| long name | 1,234 |"
    table.rows[0][0] = "a"
    assert table.text().splitlines() == [
        "name           n",
        "---------  -----",
        "a              5",
        "long name  1,234",
    ]
    assert [number(value) for value in (None, float("nan"), 0.5, 1234)] == ["-", "-", "0.5000", "1,234"]
    assert [percent(1, 3), percent(9999, 10000), percent(1, 1), percent(0, 0)] == [
        "33.3 %",
        "99.9 %",
        "100.0 %",
        "-",
    ]
    assert share(190, 2000) == "190 of 2,000 (9.5 %)"
