"""A signal to the driver while it trains: training saves, and the same command goes on."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from clone import copy_tree, environment

LONG = ("--set", "training.epochs=500", "--set", "training.log_every=1")
TRAINING = ("--stage", "5", "--stop-stage", "5", *LONG)
WAIT_S = 600.0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A clone whose recipe `mini` has its data."""
    tree = copy_tree(tmp_path_factory.mktemp("stopping") / "clone")
    done = drive(tree, "--stop-stage", "4")
    assert done.wait(timeout=WAIT_S) == 0, output(tree)
    return tree


def drive(tree: Path, *arguments: str) -> subprocess.Popen:
    """Start the driver; what it prints goes to a file."""
    with (tree / "output").open("wb") as file:
        return subprocess.Popen(
            ["bash", "run.sh", *arguments],
            cwd=tree,
            env=environment(OMP_NUM_THREADS="1"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def output(tree: Path) -> str:
    """What the driver has printed so far."""
    return (tree / "output").read_text()


def stop(tree: Path, number: signal.Signals, *arguments: str) -> str:
    """Train until the first updates are made, then send the driver a signal; what it printed."""
    driver = drive(tree, *TRAINING, *arguments)
    end = time.monotonic() + WAIT_S
    while " update 2: " not in output(tree) and "resuming from" not in output(tree):
        assert driver.poll() is None, output(tree)
        assert time.monotonic() < end, output(tree)
        time.sleep(0.1)
    os.kill(driver.pid, number)
    assert driver.wait(timeout=WAIT_S) == 75, output(tree)
    return output(tree)


@pytest.mark.parametrize(("name", "processes"), [("SIGINT", 1), ("SIGUSR1", 2), ("SIGTERM", 2)])
@pytest.mark.slow
def test_training_saves_and_the_same_command_goes_on(prepared, name, processes):
    number = getattr(signal, name)
    options = ("--tag", f"{name}{processes}", "--ngpu", str(processes))
    printed = stop(prepared, number, *options)
    exp = prepared / "egs" / "mini" / "exp" / f"{name}{processes}"
    assert f"{name}: stopping" in printed
    assert f"stopped by {name} after update " in printed
    assert printed.rstrip().endswith("stopped and saved; the same command goes on from there")
    assert "FAILED" not in printed
    assert "killed" not in printed
    assert (exp / ".done_train").read_text() == "unfinished\n"
    assert list(exp.glob("*.pt"))
    printed = stop(prepared, number, *options)
    assert "resuming from" in printed


@pytest.mark.slow
def test_a_stop_from_elsewhere_is_no_failure(prepared):
    """As when a scheduler signals the training processes, or those on another node were asked to stop."""
    driver = drive(prepared, *TRAINING, "--tag", "elsewhere", "--ngpu", "2")
    end = time.monotonic() + WAIT_S
    while " update 2: " not in output(prepared):
        assert time.monotonic() < end, output(prepared)
        time.sleep(0.1)
    for rank in workers(driver.pid):
        os.kill(rank, signal.SIGUSR1)
    assert driver.wait(timeout=WAIT_S) == 75, output(prepared)
    assert "stopped and saved; the same command goes on from there" in output(prepared)
    assert "FAILED with exit code" not in output(prepared)


REPORT = """an epoch
E1121 19:03:16.712000 1032 torch/api.py:986] failed (exitcode: 75) local_rank: 1 (pid: 1039) of binary
Traceback (most recent call last):
{rule}
audiotag.bin.train FAILED
  exitcode  : {first} (pid: 1038)
  exitcode  : 75 (pid: 1039)
{rule}
the end
"""


TRACE = """some output
{before}Traceback (most recent call last):
  File "<frozen runpy>", line 189, in _run_module_as_main
    import torch
    ^^^^^^^^^^^^
{error}
the end
"""
SITE = """Fatal Python error: init_import_site: Failed to import the site module
Python runtime state: initialized
"""
SIGNAL = "torch.distributed.elastic.multiprocessing.api.SignalException: Process 7 got signal: "


def passed_through(name: str, text: str) -> str:
    """What one of the driver's filters lets through."""
    sources = "source local/log.sh; source local/process.sh; source local/output.sh"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{sources}; {name}"],
        cwd=Path(__file__).parents[2],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    ("first", "is_shown"), [(75, False), (130, False), (-2, False), (-9, True), (1, True), (13, True)]
)
def test_only_a_real_failure_is_reported_by_the_launcher(first, is_shown):
    report = REPORT.format(rule="=" * 60, first=first)
    assert passed_through("hide_stops", report) == (report if is_shown else "an epoch\nthe end\n")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("stopped by SIGTERM after update 7; saved exp/a/step-7.pt", 75),
        ("stopped by SIGUSR1 after 2 of 9 blocks of the teachers' scores; the same command goes on", 75),
        ("stopped by SIGUSR1 while it waited for another run to make the teachers' scores in a", 75),
        ("stopped by accident", 1),
    ],
)
def test_what_a_stopped_run_says_tells_its_exit_code(tmp_path, line, code):
    """Torchrun's own is 1 where a hangup has ended it, which leaves no table of codes."""
    log = tmp_path / "log"
    log.write_text(f"2026-01-02 03:04:05 [stage 5: train] started\n{line}\n")
    assert passed_through(f"own_status 1 {shlex.quote(str(log))}", "") == f"{code}\n"


@pytest.mark.parametrize("name", ["hide_torchrun", "hide_launcher"])
@pytest.mark.parametrize(
    ("before", "error", "is_shown"),
    [
        ("", "KeyboardInterrupt", False),
        (SITE, "KeyboardInterrupt", False),
        ("", f"{SIGNAL}1", False),
        ("", f"{SIGNAL}2", False),
        ("", f"{SIGNAL}15", True),
        ("", "KeyError: 'KeyboardInterrupt'", True),
        (SITE, "ImportError: no module of this name", True),
    ],
)
def test_the_traceback_of_an_interrupted_start_is_not_shown(name, before, error, is_shown):
    text = TRACE.format(before=before, error=error)
    assert passed_through(name, text) == (text if is_shown else "some output\nthe end\n")


def workers(pid: int) -> list[int]:
    """The training processes that the driver's launcher has started: they lead sessions of their own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            variables = (stat.parent / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        own = int(stat.parent.name)
        if int(fields[3]) == own and b"RANK=0" in variables and is_below(own, pid):
            found.append(own)
    assert found
    return found


def is_below(pid: int, ancestor: int) -> bool:
    """Whether one process descends from another."""
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if pid == ancestor:
            return True
    return False
