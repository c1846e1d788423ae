"""One run at a time in a folder, also when two start at the same moment, and none held up by a dead one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from audiotag.errors import ConfigError, StorageError
from audiotag.training import runlock
from audiotag.training.runlock import LOCK_NAME, lock_run

ROOT = Path(__file__).resolve().parents[2]

# Locks a folder from a moment on that all share, and holds it until its input ends; a child as loader
# processes are inherits the open file.
HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from audiotag.errors import run_command
from audiotag.training import runlock
runlock.WAIT_FOR_DYING_S = float(sys.argv[2])
def main():
    sys.stdin.readline()
    with runlock.lock_run(Path(sys.argv[1])):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        child.start()
        print("held", child.pid, flush=True)
        sys.stdin.read()
        child.kill()
run_command(main)
"""


def start_holder(folder: Path, patience_s: float = 0.5) -> subprocess.Popen:
    """A process that locks the folder when it is written to."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(patience_s)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "4711"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def go(process: subprocess.Popen) -> None:
    """Let a holder begin."""
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(runlock, "WAIT_FOR_DYING_S", 0.2)


def test_a_second_run_is_refused_and_told_who_holds_the_folder(tmp_path, impatient):
    folder = tmp_path / "exp"
    holder = start_holder(folder)
    try:
        go(holder)
        assert holder.stdout.readline().startswith("held")
        with pytest.raises(ConfigError) as refused, lock_run(folder):
            pass
        assert f"another run is training in {folder} (process {holder.pid} on " in str(refused.value)
        assert ", job 4711, since 2" in str(refused.value)
        holder.stdin.close()
        assert holder.wait(timeout=20) == 0
        with lock_run(folder):
            pass
    finally:
        holder.kill()


def test_a_killed_run_does_not_hold_the_folder_nor_do_its_children(tmp_path):
    holder = start_holder(tmp_path)
    go(holder)
    child = int(holder.stdout.readline().split()[1])
    try:
        holder.kill()
        with lock_run(tmp_path):  # without waiting for the system to be done with the other
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_of_two_that_start_at_the_same_moment_one_runs(tmp_path):
    folder = tmp_path / "exp"
    holders = [start_holder(folder, patience_s=1.0) for _ in range(3)]
    try:
        time.sleep(1)  # so that all have imported what they need
        for holder in holders:
            go(holder)
        left = []
        deadline = time.monotonic() + 30
        while len(left) < 2:
            assert time.monotonic() < deadline
            left = [holder for holder in holders if holder.poll() is not None]
            time.sleep(0.1)
        (runs,) = (holder for holder in holders if holder not in left)
        assert runs.stdout.readline().startswith("held")
        for holder in left:
            assert holder.returncode == 2
            assert f"(process {runs.pid} on " in holder.stderr.read()
    finally:
        for holder in holders:
            holder.kill()


def test_what_a_killed_run_left_half_written_is_removed_and_nothing_else(tmp_path):
    ours = (".epoch-3.pt.77.tmp", ".step-120.pt.77.tmp", ".config.yaml.8.tmp", ".divergence-3.pt.8.tmp")
    others = ("epoch-2.pt", ".RESULTS.md.9.tmp", "epoch-3.pt.77.tmp", LOCK_NAME, ".lock")
    for name in (*ours, *others):
        (tmp_path / name).touch()
    with lock_run(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    refused = pytest.raises(StorageError, match=r"cannot write into .*file/exp \(Not a directory\)")
    with refused, lock_run(tmp_path / "file" / "exp"):
        pass


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def refuse(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(runlock.fcntl, "lockf", refuse)
    with lock_run(tmp_path):
        pass
    assert "knows no locks" in caplog.text
