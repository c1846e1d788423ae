"""Killed and started again at many moments, by call and not by clock; `--soak-cycles 300` for a long one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_runs_end_with_the_same_bits_however_often_they_were_killed(tmp_path, pytestconfig):
    cycles = pytestconfig.getoption("--soak-cycles")
    # A process of its own: one that has trained before must not be forked. A folder of its own: statistics
    # in the recipe that tests share would be found by those that look for what is missing.
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.soak", f"--cycles={cycles}", f"--folder={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kills = int(done.stdout.strip().splitlines()[-1].split(" after ")[1].split()[0])
    assert kills >= cycles
