"""Which failures a torchrun that starts processes again is told not to repeat, and who has begun a run."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from audiotag.errors import CheckpointError, ConfigError, DataError, StoppedBySignal, TrainingError
from audiotag.restarts import has_begun, launch_lines, restart_helps
from audiotag.rollcall import Failure

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID")


def test_only_what_may_succeed_next_time_is_repeated():
    for error in (
        ConfigError("x"),
        DataError("x"),
        CheckpointError("x"),
        TrainingError("the loss is not finite"),
        StoppedBySignal("x"),
        OSError(errno.ENOSPC, "full"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ):
        assert not restart_helps(error)
    for error in (RuntimeError("CUDA error"), Failure(1, "was killed", 5).error()):
        assert restart_helps(error)


def test_the_other_processes_do_as_the_first_to_fail():
    assert not restart_helps(Failure(0, "failed: no such key", 2, restart_helps=False).error())


@pytest.mark.parametrize(("error", "starts"), [("RuntimeError('x')", 3), ("ConfigError('wrong')", 1)])
def test_torchrun_is_told(tmp_path, error, starts):
    """Under a real torchrun, which leaves with a failure in either case."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import time
        from audiotag.errors import ConfigError
        from audiotag.restarts import restarts_where_they_help

        with open({str(tmp_path / "starts")!r}, "a") as file:
            file.write("started\\n")
        with restarts_where_they_help():
            raise {error}
    """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=2", str(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "starts").read_text().count("started") == starts
    assert error.partition("'")[2].partition("'")[0] in done.stderr


@pytest.fixture
def exp_dir(tmp_path, monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def begin(**environment: str) -> Path:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "config.yaml").write_text("".join(f"{line}\n" for line in launch_lines()) + "seed: 0\n")
        return tmp_path

    return begin


def test_a_job_that_is_queued_again_has_begun(exp_dir, monkeypatch):
    folder = exp_dir(SLURM_JOB_ID="7")
    assert not has_begun(folder)  # a second command of the same job
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert has_begun(folder)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert not has_begun(folder)


def test_a_process_that_torchrun_starts_again_has_begun(exp_dir, monkeypatch):
    folder = exp_dir(TORCHELASTIC_RUN_ID="x")
    assert has_begun(folder)
    monkeypatch.setattr(os, "getppid", lambda: 1)  # another torchrun, of the same name
    assert not has_begun(folder)


def test_without_a_launcher_every_command_is_a_new_one(exp_dir):
    assert not has_begun(exp_dir())
    assert not has_begun(exp_dir() / "absent")
