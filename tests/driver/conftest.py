"""A clone in a temporary folder, and a way to call its scripts as a user does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from clone import copy_tree, environment
from slurm import Slurm


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the repository's scripts and recipes, in a path with a blank."""
    return copy_tree(tmp_path / "a clone")


@pytest.fixture
def drive(tree: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Call a script of the copy: `drive("--stage", "1", script="egs/mini/run.sh", cwd=..., env={...})`."""

    def call(*arguments, script="run.sh", cwd=tree, env=None, timeout=180):
        return subprocess.run(
            ["bash", os.path.relpath(tree / script, cwd), *arguments],
            cwd=cwd,
            env=environment(**(env or {})),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return call


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    """Programs that answer as those of Slurm do."""
    return Slurm(tmp_path / "slurm")


@pytest.fixture
def submit(drive, slurm: Slurm) -> Callable[..., subprocess.CompletedProcess]:
    """The driver where Slurm's programs are; more variables as `env`."""
    return lambda *arguments, env=(): drive(*arguments, env={**slurm.variables, **dict(env)})
