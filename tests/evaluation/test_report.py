"""RESULTS.md and the report command, on a folder with real TensorBoard files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from audiotag.config import Config
from audiotag.configfile import dump_yaml
from audiotag.errors import AudiotagError, ConfigError, DataError
from audiotag.evaluation import trainingsection
from audiotag.evaluation.report import find_evaluations, results_table, write_report
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


def test_how_it_was_trained_is_told(experiment, make_scores, make_labels):
    provenance = {
        "date": "2026",
        "command": "x",
        "host": "h",
        "python": "3.11.7",
        "torch": "2.11",
        "git": "89ab",
    }
    info = {"split": "eval", "weights": "epoch-9", "training": {"processes": 4, "provenance": provenance}}
    shutil.rmtree(experiment / "eval_eval_epoch-10-avg-2")
    write_evaluation(experiment / "eval_eval_epoch-9", make_scores(20, 4), make_labels(4), info=info)
    text = write_report(experiment, find_evaluations(experiment)).read_text()
    command = f"--config {experiment}/config.yaml --exp-dir exp/NEW_TAG"
    assert f"torchrun --standalone --nproc-per-node 4 -m audiotag.bin.train {command}" in text
    assert "\nTrained with 4 processes; commit `89ab`; python 3.11.7, torch 2.11.\n" in text
    init = {
        "model": "$DEIT",
        "sha256": {"deit.pth": "d0272ac0ff"},
        "adapted": ["positions"],
        "fresh": ["head"],
    }
    begun = {**info, "training": {**info["training"], "init": init}}
    write_evaluation(experiment / "eval_eval_epoch-9", make_scores(20, 4), make_labels(4), info=begun)
    text = write_report(experiment, find_evaluations(experiment)).read_text()
    start = "Started from $DEIT (deit.pth, SHA-256 d0272ac0); adapted: positions; fresh: head."
    assert f"torch 2.11. {start}\n" in text
    write_evaluation(experiment / "eval_eval_epoch-9", make_scores(20, 4), make_labels(4), info=info)
    # Another part of the run was trained by one process.
    alone = {**info, "weights": "epoch-12", "training": {"processes": 1, "provenance": provenance}}
    write_evaluation(experiment / "eval_eval_epoch-12", make_scores(20, 4), make_labels(4), info=alone)
    text = write_report(experiment, find_evaluations(experiment)).read_text()
    assert "\nepoch-9: Trained with 4 processes; " in text and "\nepoch-12: Trained with 1 process; " in text


def test_one_process_needs_no_launcher(experiment):
    text = write_report(experiment, find_evaluations(experiment)).read_text()
    assert "\npython -m audiotag.bin.train --config" in text and "torchrun" not in text
    assert "Trained with" not in text


@pytest.mark.parametrize(
    ("metric", "best"),
    [
        ("loss", "best validation loss 0.0500 at update 20"),
        ("mAP", "best validation mAP 0.7500 at update 10"),
    ],
)
def test_the_best_is_that_of_the_metric_that_chooses(experiment, metric, best):
    config = Config.model_validate({"training": {"best_metric": metric}, "loss": {"name": "ce"}})
    (experiment / "config.yaml").write_text(dump_yaml(config))
    text = write_report(experiment, find_evaluations(experiment)).read_text()
    assert best in text and text.count("best validation ") == 1
    assert f"![Loss, validation {metric} and learning rate" in text


def test_the_report_draws_the_configured_loss_and_metric(experiment, monkeypatch):
    drawn = {}
    monkeypatch.setattr(trainingsection, "plot_training", lambda *_, **options: drawn.update(options))
    config = Config.model_validate({"training": {"best_metric": "f1_macro"}, "loss": {"name": "focal"}})
    (experiment / "config.yaml").write_text(dump_yaml(config))
    write_report(experiment, find_evaluations(experiment))
    assert drawn == {"loss": "focal", "metric": "f1_macro"}
    (experiment / "config.yaml").unlink()
    write_report(experiment, find_evaluations(experiment))
    assert drawn == {"loss": "bce", "metric": "mAP"}
