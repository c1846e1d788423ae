"""Loader processes: how many threads they have, how long they live, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from batches import training_loader
from manifests import noise_clips, record, write_manifest

from audiotag.data.index import IndexedManifest
from audiotag.errors import DataError

ROOT = Path(__file__).resolve().parents[2]

# A training process that tells its loader processes' ids, and never ends of itself.
ENDLESS = """
import multiprocessing, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run where Ctrl-C is ignored
sys.path.insert(0, sys.argv[1])
from batches import training_loader
from audiotag.data.index import IndexedManifest
from audiotag.errors import run_command

def main():
    loader = training_loader(IndexedManifest(Path(sys.argv[2])), num_workers=2)
    for epoch in range(1, 10**9):
        for batch in loader(epoch):
            if epoch == 2:
                print(*[child.pid for child in multiprocessing.active_children()], flush=True)

run_command(main)
"""


# One that ends with an error while a batch is on its way, and something still holds on to the batches.
FAILING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from batches import training_loader
from audiotag.data.index import IndexedManifest
from audiotag.errors import DataError, run_command

def main():
    global batches
    batches = iter(training_loader(IndexedManifest(Path(sys.argv[2])), num_workers=2)(1))
    next(batches)
    raise DataError("the end")

run_command(main)
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return IndexedManifest(noise_clips(tmp_path_factory.mktemp("clips"), 20))


def look_around(clip, rng, *, stored, replaced):
    """In place of noise: what the process is that loads, as the samples of the clip."""
    import torch

    tasks = len(list(Path("/proc/self/task").iterdir()))
    ignores = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return np.array([os.getpid(), torch.get_num_threads(), tasks, ignores], "f4")


def test_workers_stay_for_all_epochs_and_have_one_thread_each(tmp_path):
    """Resampling is where torch would start some."""
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros((44100, 2)), 44100)
    cut = record("a", path=str(tmp_path / "a.wav"), rate=44100)
    records = [{**cut, "id": f"clip-{number}"} for number in range(20)]
    clips = IndexedManifest(write_manifest(tmp_path / "cuts.jsonl", records))
    loader = training_loader(clips, num_workers=2, noise=look_around)
    seen = [{tuple(row) for batch in loader(epoch) for row in batch["inputs"].tolist()} for epoch in (1, 2)]
    processes = {pid for pid, *_ in seen[0]}
    assert len(processes) == 2 and processes == {pid for pid, *_ in seen[1]}
    assert {threads for epoch in seen for _, threads, _, _ in epoch} == {1}
    # One that loads and two that send.
    assert max(tasks for epoch in seen for _, _, tasks, _ in epoch) <= 3
    # Ctrl-C is left to the training process.
    assert all(ignores for epoch in seen for *_, ignores in epoch)


def die(clip, rng, *, stored, replaced):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_ends_the_run_with_one_line(manifest):
    """As by the system when memory is full."""
    with pytest.raises(DataError) as error:
        list(training_loader(manifest, num_workers=1, noise=die)(1))
    assert str(error.value).startswith("a loader process died (DataLoader worker (pid")
    assert "lower data.num_workers" in str(error.value)


@pytest.fixture
def endless(manifest):
    """Starts endless training processes in groups of their own; ends what is left of them."""
    started = []

    def start(program: str = ENDLESS) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(Path(__file__).parent), str(manifest.paths[0])],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def lives(pid: int) -> bool:
    """Whether a process is there, and not just waiting to be noticed by its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, torch's workers find out for themselves")
def test_workers_end_with_their_parent(endless):
    """Killed, stopped by the launcher, or with Ctrl-C, which reaches the whole group."""
    processes = {name: endless() for name in ("SIGKILL", "SIGTERM", "SIGINT")}
    workers = {name: list(map(int, process.stdout.readline().split())) for name, process in processes.items()}
    assert all(len(pids) == 2 and all(map(lives, pids)) for pids in workers.values())
    for name, process in processes.items():
        if name == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.Signals[name])
    for process in processes.values():
        process.wait(timeout=120)
    end = time.monotonic() + 3
    while any(lives(pid) for pids in workers.values() for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [name for name, pids in workers.items() if any(map(lives, pids))]
    errors = {name: process.stderr.read() for name, process in processes.items()}
    assert errors == {"SIGKILL": "", "SIGTERM": "", "SIGINT": "interrupted\n"}
    assert processes["SIGINT"].returncode == 130


def test_a_process_that_fails_does_not_wait_for_its_workers(endless):
    """They ignore the SIGTERM by which Python would end them."""
    process = endless(FAILING)
    assert process.communicate(timeout=120)[1] == "error: the end\n"
    assert process.returncode == 3


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_workers_work_on_when_a_launcher_signals_the_whole_group(endless, name):
    """Torchrun does so, and schedulers; the training process asks for the rest of its update then."""
    process = endless()
    workers = list(map(int, process.stdout.readline().split()))
    for pid in workers:
        os.kill(pid, signal.Signals[name])
    assert list(map(int, process.stdout.readline().split())) == workers
    assert all(map(lives, workers))
