"""Submitting jobs twice, half, by force and beside other runs; waiting for them, and following their logs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clone import copy_tree, environment, lines_with
from slurm import Slurm

SUBMIT = ("--launcher", "slurm", "--nj", "1")
CHAIN = (*SUBMIT, "--stop-stage", "5")


@pytest.fixture
def start(tree: Path, slurm: Slurm):
    """Start the driver beside the test; it is ended with it."""
    started = []

    def call(*arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            ["bash", "run.sh", *arguments],
            cwd=tree,
            env=environment(**slurm.variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Where the tests run in the background it is ignored, and a shell cannot change that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_force_forgets_only_what_the_stages_would_make(tree, submit, tmp_path):
    corpus, data = tmp_path / "corpus", tree / "egs" / "mini" / "data"
    folders = {name: data / name for name in ("manifests", "fbank/ast128")} | {"corpus": corpus}
    for folder in folders.values():
        folder.mkdir(parents=True)
        for name in (".done", "product"):
            (folder / name).write_text("made earlier\n")
    settings = ("--set", f"corpus.dir={corpus}", "--set", "features.storage=on_the_fly")
    done = submit(*SUBMIT, "--force", "--stop-stage", "2", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    left = {name: sorted(path.name for path in folder.iterdir()) for name, folder in folders.items()}
    # A run of the stages on this machine leaves the same.
    assert left == {
        "corpus": [".done", "product"],
        "fbank/ast128": [".done", "product"],
        "manifests": [],
    }


@pytest.mark.slow
def test_a_second_submission_is_refused_or_waits(tree, submit, slurm, start):
    assert submit(*CHAIN).returncode == 0
    noted = (tree / "egs" / "mini" / "exp" / "ast_tiny" / "log" / "slurm" / "jobs").read_text()
    names = ("stage0-corpus", "stage1-manifests", "stage2-features", "stage4-statistics", "stage5-train")
    assert noted.splitlines() == [f"{name} {number}" for number, name in enumerate(names, 1)]
    slurm.set_state("COMPLETED", 1)
    for more in ((), ("--wait", "--force"), ("--wait", "--restart")):
        done = submit(*CHAIN, *more)
        assert done.returncode == 2, done.stdout + done.stderr
        left = ", ".join(f"{number} PENDING (name{number})" for number in (2, 3, 4, 5))
        assert lines_with(done.stderr, f"jobs of this run are still there: {left}; ./run.sh --follow"), (
            done.stderr
        )
        assert "scancel 2 3 4 5 ends them" in done.stderr
    waiting = start(*SUBMIT, "--stage", "5", "--stop-stage", "5", "--wait")
    wait_until(lambda: len(slurm.told("questions")) > 8)
    assert len(slurm.told("submitted")) == 5
    slurm.set_state("COMPLETED")
    wait_until(lambda: len(slurm.told("submitted")) == 6)
    slurm.set_state("COMPLETED")
    output = waiting.communicate(timeout=60)[0]
    assert "waiting for the jobs of an earlier command: 2 3 4 5" in output
    assert "[stage5-train] job 6: COMPLETED" in output
    # What was not done was submitted again, and had no need to wait for others.
    assert "afterok" not in slurm.told("submitted")[-1]
    assert output.rstrip().endswith("all jobs have succeeded")


def test_jobs_that_prepare_the_data_of_several_runs_come_one_after_another(submit, slurm):
    assert submit(*CHAIN, "--tag", "first").returncode == 0
    slurm.set_state("COMPLETED", 1, 2)
    assert submit(*CHAIN, "--tag", "second").returncode == 0
    second = slurm.told("submitted")[5:]
    assert "--dependency=afterany:3:4 " in second[0]
    assert "--dependency=afterok:6 " in second[1]
    forced = submit(*CHAIN, "--tag", "third", "--force")
    assert forced.returncode == 2
    left = ", ".join(f"{number} PENDING (name{number})" for number in (3, 4, 6, 7, 8, 9))
    assert f"--force while jobs of another run prepare the same data: {left};" in forced.stderr
    training = (*SUBMIT, "--stage", "5", "--stop-stage", "5", "--tag", "third", "--force")
    assert submit(*training).returncode == 0
    slurm.set_state("COMPLETED")
    assert submit(*CHAIN, "--tag", "fourth", "--force").returncode == 0
    assert "--dependency" not in slurm.told("submitted")[11]


@pytest.mark.slow
def test_an_interrupted_submission_leaves_no_job(tree, slurm, start):
    (slurm.folder / "slow").touch()
    submitting = start(*CHAIN)
    wait_until((slurm.folder / "submitting").exists)
    # As a terminal does: to the driver and to sbatch.
    os.killpg(submitting.pid, signal.SIGINT)
    output = submitting.communicate(timeout=60)[0]
    assert submitting.returncode == 130, output
    assert "interrupted; cancelled: 1\n" in output
    assert len(slurm.told("submitted")) == 1
    assert slurm.told("cancelled") == ["1"]


def test_a_killed_submission_has_noted_its_jobs(tree, submit, slurm, start):
    (slurm.folder / "slow").touch()
    submitting = start(*CHAIN)
    wait_until(lambda: len(slurm.told("submitted")) == 2)
    submitting.kill()
    submitting.communicate()
    (slurm.folder / "slow").unlink()
    wait_until(lambda: not (slurm.folder / "slow").exists())
    assert "jobs of this run are still there: 1 PENDING (name1)" in submit(*CHAIN).stderr


@pytest.mark.slow
def test_jobs_whose_processes_slurm_still_ends_are_waited_for(submit, slurm, start):
    corpus = (*SUBMIT, "--stop-stage", "0")
    assert submit(*corpus).returncode == 0
    slurm.set_state("COMPLETING")
    refused = submit(*corpus, env={"AUDIOTAG_ENDING_S": "1"})
    assert refused.returncode == 2
    assert "waiting until Slurm has ended the processes of 1 COMPLETING (name1)" in refused.stdout
    message = (
        "jobs of this run are still there: 1 COMPLETING (name1); Slurm has not ended their processes yet"
    )
    assert lines_with(refused.stderr, message), refused.stderr
    assert "scontrol show job 1" in refused.stderr
    assert "scancel" not in refused.stderr
    # A job that is queued again passes through that state too.
    again = start(*corpus)
    wait_until(lambda: len(slurm.told("questions")) > 4)
    slurm.set_state("PENDING")
    assert "still there: 1 PENDING (name1); ./run.sh" in again.communicate(timeout=60)[0]
    slurm.set_state("COMPLETING")
    before = len(slurm.told("questions"))
    again = start(*corpus)
    wait_until(lambda: len(slurm.told("questions")) > before + 1)
    assert len(slurm.told("submitted")) == 1
    slurm.set_state("CANCELLED")
    output = again.communicate(timeout=60)[0]
    assert again.returncode == 0, output
    assert len(slurm.told("submitted")) == 2


def test_success_of_forgotten_jobs_is_read_from_what_they_leave(submit, slurm):
    corpus = (*SUBMIT, "--stop-stage", "0", "--wait")
    (slurm.folder / "run").touch()
    done = submit(*corpus)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job 1: FORGOTTEN" in done.stdout and "all jobs have succeeded" in done.stdout
    (slurm.folder / "bin" / "squeue").write_text("#!/bin/sh\necho 'Invalid job id specified' >&2; exit 1\n")
    (slurm.folder / "run").unlink()
    for arguments in ((*SUBMIT, "--stage", "1", "--stop-stage", "1", "--wait"), (*corpus, "--force")):
        done = submit(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        assert lines_with(done.stderr, "Slurm has forgotten how job "), done.stderr
        assert "have succeeded" not in done.stdout


def test_forgotten_folds_are_looked_at_one_by_one(submit, slurm):
    (slurm.folder / "bin" / "squeue").write_text("#!/bin/sh\necho 'Invalid job id specified' >&2; exit 1\n")
    folds = (
        *SUBMIT,
        "--recipe",
        "esc50",
        "--config",
        "conf/ast_tiny.yaml",
        "--set",
        "corpus.dir=/corpora/esc50",
    )
    done = submit(*folds, "--stage", "1", "--wait")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Slurm has forgotten how job 2 ended" in done.stderr


def test_a_folder_whose_name_is_a_pattern(tmp_path, slurm):
    """The log of a job is named and found where the path has signs that a shell or Slurm might take up."""
    tree = copy_tree(tmp_path / "R&D [1] 50% *")
    logs = tree / "egs" / "mini" / "exp" / "ast_tiny" / "log" / "slurm"

    def call(*arguments: str) -> subprocess.CompletedProcess:
        variables = environment(**slurm.variables)
        return subprocess.run(
            ["bash", "run.sh", *arguments],
            cwd=tree,
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
        )

    corpus = (*SUBMIT, "--stop-stage", "0")
    printed = call(*corpus, "--dry-run").stdout
    assert f'#SBATCH --output="{str(logs).replace("%", "%%")}/stage0-corpus-%j.log"' in printed
    assert call(*corpus).returncode == 0
    slurm.set_state("COMPLETED", 1)
    (logs / "stage0-corpus-2.log").write_text("what went wrong\n")
    (slurm.folder / "first").write_text("FAILED\n")
    waiting = call(*corpus, "--wait")
    assert waiting.returncode == 3, waiting.stdout + waiting.stderr
    assert "    | what went wrong\n" in waiting.stderr
    followed = call("--follow")
    assert "what went wrong" in followed.stdout, followed.stderr


def test_the_newest_log_is_followed_wherever_it_is(tree, slurm, start):
    recipe = tree / "egs" / "mini"
    run = recipe / "exp" / "ast_tiny" / "log"
    logs = [
        run / "slurm" / "stage5-train-1.log",
        run / "stage5.log",
        run / "fold1.log",
        recipe / "data/log/stage1.log",
    ]
    for age, path in enumerate(reversed(logs)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {path.name}\n")
        os.utime(path, (time.time() - 1000 * age - 1000,) * 2)
    following = start("--follow")
    for path in reversed(logs[1:]):
        path.touch()
        line = following.stdout.readline()
        assert line.endswith(f"[follow] {path}\n"), line
        assert following.stdout.readline() == f"this is {path.name}\n"
    assert following.poll() is None
    # While jobs are left, their logs are followed, to their end.
    (run / "slurm" / "jobs").write_text("stage5-train 1\n")
    slurm.set_state("RUNNING", 1)
    following = start("--follow")
    assert following.stdout.readline().endswith(f"[follow] {logs[0]}\n")
    assert following.stdout.readline() == f"this is {logs[0].name}\n"
    slurm.set_state("COMPLETED", 1)
    assert following.communicate(timeout=60)[0] == ""
    assert following.returncode == 0


@pytest.mark.parametrize("variables", [{}, {"AUDIOTAG_PYTHON": "python3-without-packages"}])
def test_a_dry_run_installs_nothing(tree, submit, tmp_path, variables):
    bare = tmp_path / "bin" / "python3-without-packages"
    bare.parent.mkdir()
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    path = f"{bare.parent}:{os.environ['PATH']}"
    done = submit(*SUBMIT, "--dry-run", env={"AUDIOTAG_PYTHON": "", "PATH": path, **variables})
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "AUDIOTAG_PYTHON" in done.stderr
    assert not (tree / ".venv").exists()
