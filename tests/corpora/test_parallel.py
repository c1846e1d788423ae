from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from audiotag.corpora.parallel import parallel_map
from audiotag.errors import AudiotagError, DataError

ROOT = Path(__file__).resolve().parents[2]


def square(number):
    time.sleep(0.01 * (number % 3))
    return number**2, os.getpid()


def fail_at_five(number):
    if number == 5:
        raise DataError("the fifth is damaged")
    return number


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("num_jobs", "chunk_size"), [(1, 1), (2, 1), (2, 7)])
def test_results_come_in_order(num_jobs, chunk_size):
    results = list(parallel_map(square, range(20), num_jobs, chunk_size=chunk_size))
    assert [value for value, _ in results] == [number**2 for number in range(20)]
    assert (os.getpid() in {worker for _, worker in results}) == (num_jobs == 1)
    assert list(parallel_map(square, [], num_jobs)) == []


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_an_error_arrives_as_it_was_raised(num_jobs):
    with pytest.raises(DataError, match=r"^the fifth is damaged$"):
        list(parallel_map(fail_at_five, range(10), num_jobs))


def test_a_killed_worker_is_explained():
    with pytest.raises(AudiotagError, match="one of 2 worker processes was killed"):
        list(parallel_map(die, range(4), 2))


def test_workers_do_not_outlive_their_parent(tmp_path):
    (tmp_path / "endless.py").write_text(
        "import os, time\n"
        "from audiotag.corpora.parallel import parallel_map\n"
        "def work(number):\n"
        # One write for the whole line: two workers share the pipe, and print() may write its end apart.
        "    os.write(1, b'%d\\n' % os.getpid())\n"
        "    time.sleep(0.2)\n"
        "for _ in parallel_map(work, range(1000), 2): pass\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "endless.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    workers = set()
    while len(workers) < 2:
        workers.add(int(process.stdout.readline()))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(is_running(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(worker) for worker in workers)


def is_running(pid):
    """Whether a process is there; one that has ended and that nobody has waited for does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
