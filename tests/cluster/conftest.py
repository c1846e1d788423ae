"""A Slurm cluster for the tests of this folder, and a recipe whose stages have run on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import CONFIG, ROOT, SLURM_YAML, Cluster, started, why_not


@pytest.fixture(scope="session")
def clone(tmp_path_factory) -> Path:
    """A copy of the toolkit, in a path with a blank, with a configuration that trains in seconds."""
    reason = why_not()
    if reason and os.environ.get("AUDIOTAG_NEEDS_SLURM"):
        pytest.fail(f"these tests must run here: {reason}")
    if reason:
        pytest.skip(reason)
    tree = tmp_path_factory.mktemp("cluster") / "a clone"
    made = shutil.ignore_patterns("data", "exp", "corpus")
    for name in ("egs", "local", "conf"):
        shutil.copytree(ROOT / name, tree / name, ignore=made)
    for name in ("run.sh", "db.sh", "setup.py"):
        shutil.copy(ROOT / name, tree)
    (tree / "audiotag").symlink_to(ROOT / "audiotag")
    (tree / "egs" / "mini" / "conf" / "tiny.yaml").write_text(CONFIG)
    (tree / "egs" / "mini" / "conf" / "slurm.yaml").write_text(SLURM_YAML)
    return tree


@pytest.fixture(scope="session")
def cluster(clone, tmp_path_factory) -> Iterator[Cluster]:
    """Two nodes."""
    with started(tmp_path_factory.mktemp("slurm") / "shared", clone) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def chain(cluster) -> subprocess.CompletedProcess:
    """All stages to the table of results, submitted and waited for; the run is exp/tiny."""
    return cluster.drive("--launcher", "slurm", "--wait", "--stop-stage", "7", "--nj", "2")


@pytest.fixture(scope="session")
def undisturbed(cluster, chain) -> Path:
    """The folder of a finished run on two nodes."""
    assert chain.returncode == 0, chain.stdout
    return cluster.exp("tiny")
