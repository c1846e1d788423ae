"""Evaluations of checkpoints that were written anew since: left out, and it is said."""

from __future__ import annotations

import os

import pytest

from audiotag.errors import DataError
from audiotag.evaluation import freshness
from audiotag.evaluation.freshness import leave_out_stale
from audiotag.evaluation.report import find_evaluations
from audiotag.evaluation.results import write_evaluation
from audiotag.provenance import file_digest
from tests.evaluation.test_report import run_report


@pytest.fixture
def run(tmp_path, make_scores, make_labels):
    """A function that evaluates files of a run; `epoch-1.pt` to `epoch-3.pt` are there."""
    for epoch in (1, 2, 3):
        write(tmp_path / f"epoch-{epoch}.pt", f"weights {epoch}", age_s=1000)

    def evaluate(name: str, *files: str, **info) -> None:
        digests = {file: file_digest(tmp_path / file) for file in files}
        known = {"split": "eval", "weights": name, "checkpoints": list(files), "sha256": digests, **info}
        folder = tmp_path / f"eval_eval_{name}"
        write_evaluation(folder, make_scores(20, 4), make_labels(4), info=known)
        change_age(folder / "metrics.json", age_s=500)

    evaluate.folder = tmp_path
    return evaluate


def write(path, text, *, age_s):
    """A file that was written some time ago."""
    path.write_text(text)
    change_age(path, age_s)


def change_age(path, age_s):
    now = path.parent.stat().st_mtime
    os.utime(path, (now - age_s, now - age_s))


def names(run):
    """The evaluations that stay, and those that are left out."""
    fresh, stale = leave_out_stale(run.folder, find_evaluations(run.folder))
    return [one.weights for one in fresh], [one.weights for one in stale]


def test_a_checkpoint_that_was_written_anew(run, caplog):
    run("epoch2", "epoch-2.pt")
    run("epoch3-avg2", "epoch-2.pt", "epoch-3.pt")
    run("epoch1", "epoch-1.pt")
    assert names(run) == (["epoch1", "epoch2", "epoch3-avg2"], [])
    write(run.folder / "epoch-3.pt", "other weights", age_s=100)
    assert names(run) == (["epoch1", "epoch2"], ["epoch3-avg2"])
    assert f"{run.folder / 'eval_eval_epoch3-avg2'} is left out" in caplog.text
    # Evaluated again, it is of today.
    run("epoch3-avg2", "epoch-2.pt", "epoch-3.pt")
    assert names(run)[1] == []
    # Files that are gone, or only touched, are no others.
    (run.folder / "epoch-2.pt").unlink()
    write(run.folder / "epoch-1.pt", "weights 1", age_s=0)
    assert names(run)[1] == []


def test_only_files_that_are_newer_than_the_evaluation_are_hashed_and_once(run, monkeypatch):
    for name in ("a", "b"):
        run(name, "epoch-1.pt", "epoch-2.pt")
    write(run.folder / "epoch-2.pt", "weights 2", age_s=100)
    hashed = []
    monkeypatch.setattr(freshness, "file_digest", lambda path: hashed.append(path.name) or file_digest(path))
    assert names(run) == (["a", "b"], [])
    assert hashed == ["epoch-2.pt"]


def test_an_averaged_file_is_as_old_as_what_it_was_made_of(run):
    digests = {file: file_digest(run.folder / file) for file in ("epoch-1.pt", "epoch-2.pt")}
    inner = {"averaged-a.pt": {"files": list(digests), "sha256": digests}}
    write(run.folder / "averaged-b.pt", "mean", age_s=900)
    run("b", "averaged-b.pt", averaged={"averaged-b.pt": {"files": [], "sha256": {}, "averaged": inner}})
    run("epoch3", "epoch-3.pt")
    assert names(run)[1] == []
    write(run.folder / "epoch-1.pt", "other weights", age_s=100)
    assert names(run) == (["epoch3"], ["b"])


def test_evaluations_that_note_no_digests_stay(run):
    run("epoch1", "epoch-1.pt", sha256=None)
    write(run.folder / "epoch-1.pt", "other weights", age_s=100)
    assert names(run) == (["epoch1"], [])


def test_the_report_leaves_them_out_and_does_not_judge_them(run):
    run("epoch2", "epoch-2.pt")
    run("epoch3", "epoch-3.pt")
    write(run.folder / "epoch-3.pt", "other weights", age_s=100)
    done = run_report("--exp-dir", ".", "--require", "mAP<=1", cwd=run.folder)
    assert done.returncode == 0, done.stderr
    assert "eval_eval_epoch3 is left out: epoch-3.pt was written anew" in done.stderr
    assert "epoch3" not in done.stdout
    text = (run.folder / "RESULTS.md").read_text()
    assert "after they were evaluated: `eval_eval_epoch3`." in text
    assert "### eval: epoch3" not in text and "### eval: epoch2" in text
    write(run.folder / "epoch-2.pt", "other weights", age_s=100)
    done = run_report("--exp-dir", ".", cwd=run.folder)
    assert done.returncode == DataError.exit_code
    assert "all evaluations in . are of checkpoints that were written anew" in done.stderr
