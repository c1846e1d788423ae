"""Ctrl-C while a command imports its modules, which takes it seconds: one line, and the exit code of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(path.stem for path in (ROOT / "audiotag" / "bin").glob("[!_]*.py"))
# The others are alike, and many.
QUICK = ("evaluate", "prepare", "slurm", "train")

# In place of a module that every command imports; like some compiled ones it makes nothing of the interrupt.
SLOW_IMPORT = """
import time
from pathlib import Path
Path({begun!r}).touch()
try:
    time.sleep({seconds})
except BaseException:
    pass
raise SystemExit(9)
"""


def interrupted(folder: Path, command: str, handler, seconds: float = 60.0) -> subprocess.CompletedProcess:
    """Start a command with a handler of SIGINT, and send it one while it imports."""
    begun = folder / "begun"
    (folder / "pydantic.py").write_text(SLOW_IMPORT.format(begun=str(begun), seconds=seconds))
    process = subprocess.Popen(
        [sys.executable, "-m", f"audiotag.bin.{command}"],
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )
    try:
        end = time.monotonic() + 30
        while not begun.exists():
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.parametrize(
    "command",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS],
)
def test_it_ends_in_one_line(tmp_path, command):
    done = interrupted(tmp_path, command, signal.default_int_handler)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_command_in_the_background_goes_on(tmp_path):
    done = interrupted(tmp_path, "config", signal.SIG_IGN, seconds=0.5)
    assert (done.returncode, done.stderr) == (9, "")


def test_whoever_imports_a_command_keeps_the_handlers():
    program = "import audiotag.bin.slurm, signal; print(signal.getsignal(2) is signal.default_int_handler)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.stdout == "True\n"
