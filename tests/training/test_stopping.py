"""Asked to stop, a run finishes its update, saves, leaves with an exit code of its own, and goes on later."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from audiotag.training.checkpoint import load_checkpoint
from tests.training.processes import Run, assert_same_run

# 36 clips in batches of 3, many epochs: the signal comes long before the end.
LONG = ("--set", "data.batch_size=3", "--set", "training.log_every=1")
ARGUMENTS = ("--config", "config.yaml", *LONG)


def start(recipe, name: str, *arguments: str, epochs: int = 200, processes: int = 1) -> Run:
    """Start a run into exp/<name>."""
    return Run(
        recipe,
        *ARGUMENTS,
        *arguments,
        "--set",
        f"training.epochs={epochs}",
        "--exp-dir",
        f"exp/{name}",
        processes=processes,
    )


def is_training(run: Run) -> bool:
    """Whether the run has made its first updates."""
    return run.wait_until(lambda: "epoch 1 update 2" in run.output)


def saved_step(recipe, name: str) -> int:
    """The update of the newest checkpoint."""
    states = [load_checkpoint(path) for path in recipe.exp(name).glob("*.pt")]
    return max(state["position"]["step"] for state in states)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_lets_the_update_be_finished_and_saved(recipe, name):
    run = start(recipe, name)
    assert is_training(run), run.output
    os.kill(run.process.pid, getattr(signal, name))
    assert run.wait() == 75, run.output
    step = saved_step(recipe, name)
    stopped = f"stopped by {name} after update {step}; saved exp/{name}/"
    assert stopped in run.output
    assert run.output.strip().endswith("; the same command goes on from there")
    assert "Traceback" not in run.output
    assert "error:" not in run.output


def test_a_stopped_run_goes_on_to_the_same_end(recipe):
    whole = start(recipe, "not_stopped", epochs=2)
    assert whole.wait() == 0, whole.output
    run = start(recipe, "stopped", epochs=2)
    assert is_training(run), run.output
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.wait() == 75, run.output
    again = start(recipe, "stopped", epochs=2)
    assert again.wait() == 0, again.output
    assert_same_run(recipe.exp("not_stopped"), recipe.exp("stopped"), "epoch-2.pt")


def test_ctrl_c_twice_ends_at_once(recipe):
    run = start(recipe, "twice")
    assert is_training(run), run.output
    # Stopped meanwhile, it finds both signals, whose order the system keeps, when it goes on.
    os.kill(run.process.pid, signal.SIGSTOP)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        os.kill(run.process.pid, number)
    assert run.wait() == 130, run.output
    assert run.output.rstrip().endswith("interrupted")
    assert not list(recipe.exp("twice").glob(".*.tmp"))


@pytest.mark.parametrize("whom", ["launcher", "one rank"])
def test_two_processes_stop_together(recipe, whom):
    name = f"two_{whom.split()[-1]}"
    run = start(recipe, name, processes=2)
    assert is_training(run), run.output
    ranks = run.ranks()
    assert len(ranks) == 2
    os.kill(run.process.pid if whom == "launcher" else ranks[1], signal.SIGTERM)
    assert run.wait() == 1, run.output  # the launcher's own, whatever happened
    assert run.output.count(f"stopped by SIGTERM after update {saved_step(recipe, name)}; saved") == 1
    assert "error: " not in run.output
    if whom == "one rank":
        assert "exitcode  : 75 " in run.output


@pytest.mark.slow
def test_a_killed_process_ends_the_other_with_a_reason_and_no_stop(recipe):
    run = start(recipe, "killed", processes=2)
    assert is_training(run), run.output
    os.kill(run.ranks()[1], signal.SIGKILL)
    assert run.wait() == 1
    assert "error: rank 1 does not answer any more: it was killed" in run.output
    assert "stopped by SIG" not in run.output
    assert "exitcode  : 75 " not in run.output


def test_an_error_of_one_process_reaches_the_other(recipe):
    data = recipe.folder / "broken"
    shutil.copytree(recipe.folder / "data", data)
    cuts = data / "manifests" / "cuts_train.jsonl"
    # Clips that cannot be read are replaced, but not so many of them.
    cuts.write_text(cuts.read_text().replace("corpus/audio", "corpus/nowhere"))
    run = start(recipe, "broken", "--data-dir", "broken", processes=2)
    assert run.wait() == 1
    lines = {line for line in run.output.splitlines() if line.startswith("error: ")}
    assert lines, run.output
    assert all("Connection" not in line for line in lines)
    assert "exitcode  : 3 " in run.output.rpartition("Root Cause")[2]


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused(recipe):
    first = start(recipe, "busy")
    assert is_training(first), first.output
    second = start(recipe, "busy")
    assert second.wait() == 2
    assert f"error: another run is training in exp/busy (process {first.process.pid} on" in second.output
    assert "Traceback" not in second.output
    os.kill(first.process.pid, signal.SIGTERM)
    assert first.wait() == 75, first.output


def test_a_folder_that_cannot_be_written_is_refused(recipe):
    (recipe.folder / "file").write_text("")
    run = Run(recipe, *ARGUMENTS, "--exp-dir", "file/exp")
    assert run.wait() == 6
    assert "error: cannot write into file/exp (Not a directory)" in run.output


@pytest.fixture
def read_only(tmp_path):
    """A folder of a file system that is mounted read-only."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_file_system_is_refused(recipe, read_only):
    run = Run(recipe, *ARGUMENTS, "--exp-dir", str(read_only))
    assert run.wait() == 6
    assert f"error: cannot write into {read_only} (Read-only file system)" in run.output
    assert "Traceback" not in run.output


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A file system that a few checkpoints fill."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_survived_as_long_as_it_may_be_and_nothing_is_lost(recipe, small_disk):
    run = Run(recipe, *ARGUMENTS, "--set", "training.epochs=60", "--exp-dir", str(small_disk / "exp"))
    assert run.wait() == 6, run.output
    # Training goes on without checkpoints and curves up to the end, where it is an error.
    assert "epoch 60 update" in run.output
    assert "epoch 60 validation on" in run.output
    assert "error: the disk is full while writing " in run.output
    assert "free some space and run the same command again" in run.output
    assert "Traceback" not in run.output
    # What was written is whole, and with more room the run goes on.
    for path in (small_disk / "exp").glob("*.pt"):
        load_checkpoint(path)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    again = Run(recipe, *ARGUMENTS, "--set", "training.epochs=60", "--exp-dir", str(small_disk / "exp"))
    assert again.wait_until(lambda: "resuming from " in again.output), again.output
    again.kill()
