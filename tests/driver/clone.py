"""Copies of the driver and its recipes for tests to run in."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What a user may have set, and tests choose themselves.
ENVIRONMENTS = ("VIRTUAL_ENV", "CONDA_PREFIX", "AUDIOTAG_PYTHON", "PYTHONPATH")
PLACES = ("AUDIOSET", "ESC50", "SPEECHCOMMANDS", "MUSAN", "MYDATA", "AST_CHECKPOINT", "DEIT_CHECKPOINT")
USER_VARIABLES = (*ENVIRONMENTS, *PLACES)


def copy_tree(destination: Path) -> Path:
    """Scripts and recipes are copied without what recipes made; package and shared conf are linked."""
    made = shutil.ignore_patterns("data", "exp", "corpus")
    shutil.copytree(ROOT / "egs", destination / "egs", ignore=made)
    shutil.copytree(ROOT / "local", destination / "local")
    for name in ("run.sh", "db.sh", "setup.py"):
        shutil.copy(ROOT / name, destination)
    for name in ("audiotag", "conf"):
        (destination / name).symlink_to(ROOT / name)
    return destination


def add_recipe(tree: Path, name: str, data_sh: str) -> Path:
    """A recipe like mini whose stage 0 is a program of the test's own; returns its folder."""
    recipe = tree / "egs" / name
    shutil.copytree(tree / "egs" / "mini", recipe)
    (recipe / "local" / "data.sh").write_text(data_sh)
    return recipe


def environment(**changes: str) -> dict[str, str]:
    """The tests' environment with this Python, a tiny corpus and no GPU."""
    own = (*USER_VARIABLES, "SLURM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    tiny = {"MINI_TRAIN_CLIPS": "30", "MINI_EVAL_CLIPS": "12", "CUDA_VISIBLE_DEVICES": ""}
    return {**kept, "AUDIOTAG_PYTHON": sys.executable, **tiny, **changes}


def lines_with(output: str, part: str) -> list[str]:
    """The lines of an output that contain a text."""
    return [line for line in output.splitlines() if part in line]
