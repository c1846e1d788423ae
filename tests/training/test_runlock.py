"""One run at a time in a folder, also when two start at the same moment, and none held up by a dead one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
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
    ours = (".epoch-3.pt.1f77.tmp", ".step-120.pt.77.tmp", ".config.yaml.c8.tmp", ".divergence-3.pt.8.tmp")
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


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that refuses locks, as some network ones do."""

    def refuse(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(runlock.fcntl, "lockf", refuse)


@pytest.fixture
def quick(monkeypatch):
    """Beats that a test can wait for."""
    monkeypatch.setattr(runlock, "BEAT_S", 0.1)
    monkeypatch.setattr(runlock, "SILENCE_S", 1.0)


def test_a_file_system_without_locks_is_warned_of(tmp_path, no_locks, caplog):
    with lock_run(tmp_path):
        pass
    assert "knows no locks" in caplog.text


def leave(folder: Path, host: str, pid: int) -> Path:
    """The lock file of a run that nobody ended in peace."""
    path = folder / LOCK_NAME
    path.write_text(json.dumps({"host": host, "pid": pid, "job": "815", "since": "today"}))
    return path


@contextlib.contextmanager
def beating(path: Path):
    """Touch a file as a run on another machine would, without a lock on it that reaches this one."""
    left = threading.Event()
    thread = threading.Thread(target=runlock.beat, args=(path, left))
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()


def test_a_run_on_another_machine_is_known_by_its_beat(tmp_path, quick):
    with beating(leave(tmp_path, "node7", 4321)):
        with (
            pytest.raises(ConfigError, match=r"process 4321 on node7, job 815, since today\)"),
            lock_run(tmp_path),
        ):
            pass
        assert "process 4321 on node7" in runlock.running_in(tmp_path)
    assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == 4321


def test_a_run_on_another_machine_that_is_silent_is_gone(tmp_path, quick):
    path = leave(tmp_path, "node7", 4321)
    start = time.monotonic()
    with lock_run(tmp_path):  # after a while, since it was touched just now
        assert time.monotonic() - start >= 1.0
        assert json.loads(path.read_text())["pid"] == os.getpid()
    leave(tmp_path, "node7", 4321)
    os.utime(path, (1, 1))
    start = time.monotonic()
    with lock_run(tmp_path):  # at once
        assert time.monotonic() - start < 0.9


def test_a_dead_process_of_this_machine_is_gone_at_once(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    leave(tmp_path, socket.gethostname(), child.pid)
    start = time.monotonic()
    with lock_run(tmp_path):
        assert time.monotonic() - start < 4.0


def test_without_locks_a_living_process_of_this_machine_holds_the_folder(tmp_path, no_locks, quick):
    child = subprocess.Popen(["sleep", "60"])
    try:
        path = leave(tmp_path, socket.gethostname(), child.pid)
        refused = pytest.raises(ConfigError, match=f"process {child.pid} on ")
        with beating(path), refused, lock_run(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_run_beats_and_leaves_no_name(tmp_path, quick):
    path = tmp_path / LOCK_NAME
    with lock_run(tmp_path):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert path.read_text() == ""
    assert runlock.running_in(tmp_path) is None


def test_looking_who_is_there_changes_nothing(tmp_path, impatient):
    assert runlock.running_in(tmp_path) is None
    assert not list(tmp_path.iterdir())
    holder = start_holder(tmp_path)
    try:
        go(holder)
        holder.stdout.readline()
        assert f"(process {holder.pid} on " in runlock.running_in(tmp_path)
        with pytest.raises(ConfigError), lock_run(tmp_path):
            pass
    finally:
        holder.kill()


LOOKING = """
import logging, sys
from pathlib import Path
from audiotag.training import runlock
runlock.SILENCE_S = 3.0
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
print(runlock.running_in(Path(sys.argv[1])))
"""


def test_who_only_listens_for_a_beat_refuses_nobody(tmp_path):
    path = leave(tmp_path, "node7", 4321)
    looking = subprocess.Popen(
        [sys.executable, "-u", "-c", LOOKING, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert looking.stdout.readline().startswith("waiting up to 3 s to see whether (process 4321")
        with path.open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert looking.communicate(timeout=20)[0] == "None\n"
    finally:
        looking.kill()
