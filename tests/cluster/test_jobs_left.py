"""Jobs of a real Slurm cluster that are still there: in the way of a run on this machine, or never ending."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster, started

pytestmark = pytest.mark.slow


@pytest.fixture
def own(clone, tmp_path_factory) -> Iterator[Cluster]:
    """A cluster whose nodes may be harmed."""
    with started(tmp_path_factory.mktemp("slurm") / "own", clone) as cluster:
        yield cluster


def test_a_run_on_this_machine_is_refused_beside_an_array(own: Cluster):
    held = own.tree / "held.yaml"
    held.write_text("extra: [--hold]\n")
    # Not what other tests have made, and left for them.
    stages = ("--stage", "1", "--stop-stage", "2", "--set", "corpus.valid_share=0.3", "--nj", "2")
    submitted = own.drive("--launcher", "slurm", *stages, "--tag", "beside", "--slurm-conf", str(held))
    assert submitted.returncode == 0, submitted.stdout
    jobs = (own.exp("beside") / "log" / "slurm" / "jobs").read_text().splitlines()
    refused = own.drive(*stages, "--tag", "another")
    assert refused.returncode == 2, refused.stdout
    left = [f"{number} PENDING (mini-beside-{name})" for name, number in map(str.split, jobs)]
    assert len(left) == 4
    assert f"jobs that do the same are still there: {', '.join(left)}; wait until" in refused.stdout


def test_a_job_that_slurm_does_not_get_ended(own: Cluster):
    """It is in the way until its nodes are set down, as the message says."""
    daemons = [int((own.folder / f"slurmd-n{node}.pid").read_text()) for node in (1, 2)]
    own.environment["AUDIOTAG_ENDING_S"] = "2"
    again = ("--launcher", "slurm", "--tag", "hangs", "--stage", "7", "--stop-stage", "7")
    for pid in daemons:
        os.kill(pid, signal.SIGSTOP)
    try:
        job = own.submit("hangs", stage=7)
        job.wait_until(lambda: job.field("JobState") == "RUNNING", "its start")
        own.call("scancel", job.number)
        refused = own.drive(*again)
        assert refused.returncode == 2, refused.stdout
        state = f"{job.number} COMPLETING (mini-hangs-stage7-results)"
        assert f"waiting until Slurm has ended the processes of {state}" in refused.stdout
        assert f"jobs of this run are still there: {state}; Slurm has not ended" in refused.stdout
        own.call("scontrol", "update", "nodename=n1,n2", "state=down", "reason=hangs")
        submitted = own.drive(*again)
        assert submitted.returncode == 0, submitted.stdout
        assert "still there" not in submitted.stdout
    finally:
        for pid in daemons:
            os.kill(pid, signal.SIGCONT)
