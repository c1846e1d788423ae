"""A process that fails, dies or hangs takes the others with it in bounded time, and they say who it was."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Three processes that meet again and again, until something happens to rank 1.
PROGRAM = """
import os, signal, sys, time
import torch
import torch.distributed as dist
from audiotag import rollcall
from audiotag.distributed import join_world
from audiotag.errors import DataError, StoppedBySignal, run_command
from audiotag.training.signals import StopRequest

rollcall.LEAVE_S = 4.0
what = sys.argv[1]

def happen():
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hangs":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "fails":
        raise DataError("clip x is damaged")
    elif what == "slow":
        time.sleep(10)
    elif what == "ended on the way out":
        os.kill(os.getpid(), signal.SIGTERM)

def main():
    with join_world("cpu", timeout_s=4) as world, StopRequest() as stop:
        for step in range(100):
            if step == 50 and world.rank == 1:
                happen()
            if step == 50 and what == "launcher killed" and world.rank == 0:
                os.kill(os.getppid(), signal.SIGKILL)
            if step == 50 and world.rank == 2 and what == "fails":
                time.sleep(60)
            flag = torch.tensor(float(stop.name is not None))
            dist.all_reduce(flag)
            if flag > 0:
                stop.disarm()  # as the trainer does once all is saved
                try:
                    world.leave(StoppedBySignal(f"stopped by {stop.name or 'a signal'}"))
                finally:
                    if what == "ended on the way out" and world.rank == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.02)
        assert what == "nothing" and world.rank in world.gather(world.rank)

run_command(main)
"""


@pytest.fixture
def launch(tmp_path):
    """Run the program on three processes: `launch("killed")`."""
    (tmp_path / "program.py").write_text(PROGRAM)
    return partial(run_program, tmp_path / "program.py")


def run_program(program: Path, what: str) -> subprocess.CompletedProcess:
    """Run it under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    return subprocess.run(
        [*launcher, str(program), what],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
    )


def errors(output: str) -> list[str]:
    """The error lines of the processes."""
    return [line for line in output.splitlines() if line.startswith("error: ")]


@pytest.mark.slow
def test_processes_that_all_end_well_say_nothing(launch):
    done = launch("nothing")
    assert done.returncode == 0, done.stderr
    assert not errors(done.stderr)


@pytest.mark.slow
def test_the_reason_of_a_process_that_fails_reaches_all_even_those_that_do_not_wait_for_it(launch):
    start = time.monotonic()
    done = launch("fails")
    assert time.monotonic() - start < 60  # rank 2 sleeps longer
    assert done.returncode != 0
    assert set(errors(done.stderr)) >= {
        "error: [rank 1] clip x is damaged",
        "error: rank 1 failed: clip x is damaged",
    }
    assert 'Traceback (most recent call last):\n  File "<string>"' not in done.stderr
    # Whoever was out first, the launcher reports the code of the one that failed.
    assert "exitcode  : 3 " in done.stderr.rpartition("Root Cause")[2]


@pytest.mark.slow
def test_a_killed_process_is_named_and_no_stop_by_a_signal(launch):
    done = launch("killed")
    assert done.returncode != 0
    lines = errors(done.stderr)
    assert any(line.startswith("error: rank 1 does not answer any more: it was killed") for line in lines)
    assert any(line.startswith("error: [rank 2] rank 1 does not answer any more") for line in lines)
    assert "stopped by" not in done.stderr
    assert "exitcode  : 75" not in done.stderr


@pytest.mark.slow  # the launcher gives a process half a minute to end by SIGTERM
def test_a_process_that_hangs_is_named_after_the_timeout(launch):
    done = launch("hangs")
    assert done.returncode != 0
    named = re.compile("error: rank 1 (does not answer any more|has given no sign of life)")
    assert any(map(named.match, errors(done.stderr)))


@pytest.mark.slow
def test_a_process_that_takes_too_long_is_not_called_dead(launch):
    done = launch("slow")
    assert done.returncode != 0
    assert any("which are all alive: one of them took longer than" in line for line in errors(done.stderr))


def test_why_it_stops_is_said_before_a_launcher_can_end_who_says_it(launch):
    done = launch("ended on the way out")
    assert done.stderr.count("stopped by a signal") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells children of their parent's death")
def test_processes_whose_launcher_was_killed_stop_as_if_asked_to(launch):
    done = launch("launcher killed")
    assert done.returncode == -9
    assert done.stderr.count("stopped by SIGTERM") == 1
