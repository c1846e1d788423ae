"""Ctrl-C and SIGTERM: the driver stops at once and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from clone import add_recipe, environment

# Starts a child in a session of its own, as torchrun does with its workers, and notes both ids.
WAITING = """
python3 - <<'PROGRAM'
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
with open("pids.part", "w") as file:
    print(os.getpid(), child.pid, file=file)
os.rename("pids.part", "pids")
# What Python makes of Ctrl-C is not for the screen.
time.sleep(600)
PROGRAM
"""


def wait_for(condition, seconds=20.0):
    """Poll until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_driver_and_descendants(tree, number, code):
    recipe = add_recipe(tree, "waiting", WAITING)
    driver = subprocess.Popen(
        ["bash", str(tree / "run.sh"), "--recipe", "waiting"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A terminal sends Ctrl-C to the foreground group, in which only the driver is.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    pids = []
    try:
        wait_for((recipe / "pids").exists)
        pids = [int(pid) for pid in (recipe / "pids").read_text().split()]
        assert all(map(is_alive, pids))
        start = time.monotonic()
        os.kill(driver.pid, number)
        output, _ = driver.communicate(timeout=20)
        assert driver.returncode == code, output
        assert time.monotonic() - start < 5
        assert "stopped" in output
        assert "FAILED" not in output
        assert "Traceback" not in output
        assert ("KeyboardInterrupt" in (recipe / "data" / "log" / "stage0.log").read_text()) == (code == 130)
        wait_for(lambda: not any(map(is_alive, pids)), seconds=5)
        assert (recipe / "corpus" / ".done").read_text() == "unfinished\n"
    finally:
        driver.kill()
        for pid in pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
