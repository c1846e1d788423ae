"""A run of stages on this machine while jobs that do the same wait or run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from clone import environment, lines_with

CHAIN = ("--launcher", "slurm", "--nj", "2", "--stop-stage", "5")
DATA = ("--stage", "1", "--stop-stage", "2")
# What a run says that is not refused here: it has come to its stages, and lacks what they need.
BEGUN = "error: stage 1 needs corpus, which stage 0 makes"


@pytest.fixture
def chain(submit) -> None:
    """Jobs 1 to 7: the corpus, twice an array and what puts it together, statistics, training."""
    done = submit(*CHAIN)
    assert done.returncode == 0, done.stdout + done.stderr


def refusal(*numbers: int, state: str = "PENDING") -> str:
    left = ", ".join(f"{number} {state} (name{number})" for number in numbers)
    return f"error: jobs that do the same are still there: {left}; "


@pytest.mark.parametrize("more", [(), ("--tag", "other"), ("--part", "1/2", "--stop-stage", "1")])
def test_what_jobs_prepare_is_not_prepared_here_too(submit, slurm, chain, more):
    """By a run of another tag neither: they share their data."""
    slurm.set_state("COMPLETED", 1, 2)
    slurm.set_state("RUNNING", 3)
    slurm.set_state(None, 4)
    done = submit(*DATA, *more)
    assert done.returncode == 2
    left = "3 RUNNING (name3), 5 PENDING (name5), 6 PENDING (name6)"
    assert lines_with(done.stderr, f"[slurm] error: jobs that do the same are still there: {left}; "), (
        done.stderr
    )
    assert "wait until they have ended, or end them: scancel 3 5 6" in done.stderr
    slurm.set_state("COMPLETED", 3, 5)
    slurm.set_state("CANCELLED", 6)
    assert BEGUN in submit(*DATA, *more).stderr


@pytest.mark.slow
def test_training_is_not_begun_before_that_of_a_job(submit, slurm, chain):
    slurm.set_state("COMPLETED", 1, 2, 3, 4, 5, 6)
    train = ("--stage", "5", "--stop-stage", "5")
    assert refusal(7) in submit(*train).stderr
    # Others train in folders of their own; and a run may be evaluated while it trains.
    for others in (("--tag", "other", *train), ("--stage", "6", "--stop-stage", "6"), DATA):
        assert "jobs that do the same" not in submit(*others).stderr


@pytest.mark.slow
def test_folds_are_not_run_beside_their_array(submit, slurm):
    folds = ("--recipe", "esc50", "--config", "conf/ast_tiny.yaml", "--set", "corpus.dir=/corpora/esc50")
    assert submit("--launcher", "slurm", *folds).returncode == 0
    slurm.set_state("COMPLETED", 1)
    # The table over them is made by a job that would prepare what is not done.
    assert refusal(2, 3) in submit(*folds, "--stage", "1").stderr
    assert "jobs that do the same" not in submit(*folds, "--stage", "7", "--stop-stage", "7").stderr
    # Neither is one of them, which a task of the array does.
    one = (*folds, "--fold", "2")
    assert refusal(2) in submit(*one, "--stage", "1", "--stop-stage", "5").stderr
    assert "jobs that do the same" not in submit(*one, "--stage", "6", "--stop-stage", "6").stderr


@pytest.mark.slow
def test_folds_are_not_run_beside_the_job_of_one(submit, slurm):
    folds = ("--recipe", "esc50", "--config", "conf/ast_tiny.yaml", "--set", "corpus.dir=/corpora/esc50")
    train = ("--stage", "5", "--stop-stage", "5")
    assert submit("--launcher", "slurm", *folds, *train, "--fold", "3").returncode == 0
    assert refusal(1) in submit(*folds, *train).stderr
    assert "jobs that do the same" not in submit(*folds, *train, "--fold", "2").stderr


def test_what_is_done_is_no_reason_to_refuse(submit, slurm):
    assert submit("--stop-stage", "0").returncode == 0
    assert submit("--launcher", "slurm", "--nj", "2", "--stop-stage", "2", "--tag", "other").returncode == 0
    asked = len(slurm.told("questions"))
    done = submit("--stop-stage", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "already done" in done.stdout
    assert len(slurm.told("questions")) == asked
    assert refusal(1, 2, 3, 4) in submit("--stop-stage", "0", "--force").stderr


@pytest.mark.parametrize("is_old", [False, True])
def test_jobs_do_not_refuse_themselves(tree, chain, slurm, is_old):
    script = tree / "egs" / "mini" / "exp" / "ast_tiny" / "log" / "slurm" / "stage0-corpus.sh"
    job = {}
    if is_old:  # submitted before jobs were told that they are
        script.write_text(script.read_text().replace("export AUDIOTAG_SUBMITTED=yes\n", ""))
        slurm.set_state("RUNNING", 1)
        job = {"SLURM_JOB_ID": "1"}
    done = subprocess.run(
        ["bash", script],
        cwd=tree,
        env=environment(**slurm.variables, **job),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished in" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("has_squeue", [True, False])
def test_where_slurm_does_not_answer_a_line_says_so(drive, slurm, chain, tmp_path, has_squeue):
    programs = tmp_path / "programs"
    programs.mkdir()
    for folder in os.get_exec_path():
        for path in Path(folder).glob("*"):
            if path.name != "squeue" and not (programs / path.name).exists():
                (programs / path.name).symlink_to(path)
    if has_squeue:
        (programs / "squeue").write_text("#!/bin/sh\nexit 1\n")
        (programs / "squeue").chmod(0o755)
    done = drive(*DATA, env={"PATH": str(programs)})
    assert lines_with(done.stdout, "jobs that do the same were submitted, and Slurm does not tell"), (
        done.stdout
    )
    assert BEGUN in done.stderr
