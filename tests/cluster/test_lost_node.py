"""A node that is cut off in the middle of training: its job says which rank is gone, and goes on later."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, started, why_not_apart
from tests.training.processes import assert_same_run

pytestmark = pytest.mark.slow


@pytest.fixture
def apart(clone, tmp_path_factory) -> Iterator[Cluster]:
    """Two nodes with a network each."""
    if reason := why_not_apart():
        pytest.skip(reason)
    with started(tmp_path_factory.mktemp("slurm") / "apart", clone, CLUSTER_NET="apart") as cluster:
        yield cluster


def set_link(cluster: Cluster, node: str, state: str) -> None:
    """Cut a node's link, or mend it."""
    bridge = (cluster.folder / "cluster").read_text().split()[2]
    subprocess.run(["ip", "link", "set", f"{bridge}-{node}", state], check=True)


def test_the_job_names_the_rank_and_goes_on(undisturbed: Path, apart: Cluster):
    job = apart.submit("lost", "--max-restarts", "0")
    job.wait_for(" update 6: ")
    set_link(apart, "n2", "down")
    job.wait_until(lambda: re.search(r"error: .*rank \d", job.log) is not None, "the rank's name")
    message = re.search(r"error: .*rank \d.*", job.log)[0]
    assert "does not answer" in message or "cannot be reached" in message or "no sign of life" in message
    job.wait_until(lambda: job.field("Restarts") != "0", "a place in the queue")
    set_link(apart, "n2", "up")
    assert job.wait() == "COMPLETED", job.log
    assert "SLURM_RESTART_COUNT=1" in job.log
    assert "resuming from" in job.log
    assert_same_run(undisturbed, apart.exp("lost"), "epoch-40.pt")
