"""How commands report errors: one line, an exit code, the traceback only when asked for."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest
import torch

from audiotag.errors import CheckpointError, ConfigError, DataError, describe, leave_at_interrupt, run_command


@pytest.mark.parametrize(
    ("error", "line", "exit_code"),
    [
        (ConfigError("a\n  b"), "a b", 2),
        (DataError("x"), "x", 3),
        (CheckpointError("x"), "x", 4),
        (OSError(errno.ENOSPC, "No space", "/exp/epoch-1.pt"), "the disk is full while writing /exp/", 6),
        (PermissionError(errno.EACCES, "no", "/exp"), "no permission for /exp", 6),
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            "the GPU's memory is too small: in training lower data.batch",
            5,
        ),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero", 1),
    ],
)
def test_line_and_exit_code(error, line, exit_code, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit) as left:
        run_command(fail, verbose=False)
    assert left.value.code == exit_code
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {line}")
    assert "Traceback" not in printed
    assert describe(error)[1] == exit_code


def test_verbose_adds_the_traceback(capsys):
    def fail():
        raise DataError("x")

    with pytest.raises(SystemExit):
        run_command(fail, verbose=True)
    assert "Traceback" in capsys.readouterr().err


def test_importing_the_package_imports_nothing_slow():
    code = "import sys, audiotag; assert not {'torch', 'lhotse', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("rank", "line"), [("0", "interrupted\n"), ("1", "")])
def test_a_command_that_has_begun_cleans_up_after_ctrl_c(monkeypatch, capfd, rank, line):
    cleaned = []

    def work():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            cleaned.append("up")

    monkeypatch.setenv("RANK", rank)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        leave_at_interrupt()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        with pytest.raises(SystemExit) as left:
            run_command(work, verbose=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert left.value.code == 130
    assert cleaned == ["up"]
    assert capfd.readouterr().err == line
