"""The benchmark of the metrics, small."""

from __future__ import annotations

import numpy as np

from audiotag.bin import benchmark_metrics
from audiotag.evaluation.metrics import compute_metrics

TASKS = ["all metrics", "AP and AUC alone", "scikit-learn: AP and AUC"]


def run(monkeypatch, capsys, *arguments: str) -> list[list[str]]:
    """The rows of the table that it prints."""
    small = ["--clips", "60", "--classes", "5", "--repeats", "1"]
    monkeypatch.setattr("sys.argv", ["benchmark_metrics", *small, *arguments])
    benchmark_metrics.main()
    return [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]


def test_every_task_has_its_times(monkeypatch, capsys):
    header, rule, *rows = run(monkeypatch, capsys, "--bootstrap", "8", "--threads", "2")
    assert (header, rule) == (["task", "s", "CPU s"], ["---", "---:", "---:"])
    assert [row[0] for row in rows] == [*TASKS, "intervals of 8 resamplings, 2 threads"]
    assert all(float(seconds) >= 0 for row in rows for seconds in row[1:])


def test_resamplings_may_be_left_out(monkeypatch, capsys):
    assert [row[0] for row in run(monkeypatch, capsys, "--bootstrap", "0")[2:]] == TASKS


def test_generated_scores_are_those_of_a_middling_tagger():
    logits, labels = benchmark_metrics.generate(400, 100, 1.0, seed=2)
    again = benchmark_metrics.generate(400, 100, 1.0, seed=2)
    assert np.array_equal(logits, again[0]) and np.array_equal(labels, again[1])
    assert (logits.dtype, labels.dtype) == (np.float32, np.uint8)
    assert labels.any(0).all() and 0.5 < labels.sum(1).mean() < 2.0
    ap, auc = benchmark_metrics.scikit_learn(logits, labels)
    metrics = compute_metrics(logits, labels)
    assert np.allclose(ap, metrics.ap) and np.allclose(auc, metrics.auc)
    assert 0.1 < ap.mean() < 0.9 and 0.7 < auc.mean() < 0.99
