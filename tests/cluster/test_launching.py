"""Stages as jobs of a real Slurm cluster: the chain, its arrays, and a job that fails."""

from __future__ import annotations

import threading

import pytest

from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.slow


def test_the_chain_ends_with_the_table(cluster: Cluster, chain):
    assert chain.returncode == 0, chain.stdout
    assert "all jobs have succeeded" in chain.stdout
    assert chain.stdout.rstrip().splitlines()[-1].startswith("| eval | epoch40")
    for job in ("stage1-manifests-parts", "stage2-features-parts"):
        assert f"[{job}] job " in chain.stdout
        assert len(list((cluster.exp("tiny") / "log" / "slurm").glob(f"{job}-*_[12].log"))) == 2
    log = next((cluster.exp("tiny") / "log" / "slurm").glob("stage5-train-*.log")).read_text()
    assert "SLURM_RESTART_COUNT=0" in log
    assert "process 0 of 2 on cpu" in log
    assert "2 to do" not in (cluster.recipe / "data" / "log" / "stage2.log").read_text()


def test_nothing_is_submitted_twice(cluster: Cluster, undisturbed):
    done = cluster.drive("--launcher", "slurm", "--stop-stage", "7")
    assert done.returncode == 0, done.stdout
    assert "everything is done" in done.stdout
    assert "job " not in done.stdout


def test_a_failed_job_is_shown_with_its_node(cluster: Cluster, undisturbed):
    done = cluster.drive(
        "--launcher", "slurm", "--wait", "--tag", "absent", "--stage", "6", "--stop-stage", "7"
    )
    assert done.returncode == 2, done.stdout
    assert " FAILED on node n" in done.stdout
    assert "exit code 2" in done.stdout
    assert "stage 6 needs exp/absent/epoch-*.pt, which stage 5 makes: run with --stage 5" in done.stdout
    assert cluster.call("squeue", "-h") == ""


def test_follow_shows_the_newest_log(cluster: Cluster, undisturbed):
    done = cluster.drive("--follow")
    assert done.returncode == 0, done.stdout
    assert "stage7-results-" in done.stdout
    assert "[stage 7: results] finished" in done.stdout


def test_sbatch_of_the_driver_itself(cluster: Cluster, undisturbed):
    """Also from another folder than the driver's."""
    log = cluster.folder / "own.log"
    options = ("--config", "conf/tiny.yaml", "--stage", "7", "--stop-stage", "7", "--force")
    batch = ("sbatch", "--wait", "-o", str(log), str(cluster.tree / "run.sh"))
    cluster.call(*batch, *options, cwd=cluster.folder)
    assert "[stage 7: results] finished" in log.read_text()


def test_a_look_at_the_nodes_of_a_job(cluster: Cluster, undisturbed):
    log = cluster.folder / "look.log"
    batch = ("sbatch", "--wait", "--nodes=2", "-o", str(log), "run.sh")
    cluster.call(*batch, "--config", "conf/tiny.yaml", "--tag", "look", "--check")
    assert "all 2 add up a tensor by gloo" in log.read_text()


def test_jobs_that_are_left_are_waited_for(cluster: Cluster, undisturbed):
    """Where Ctrl-C has ended the first --wait, say, and the same command is given again."""
    held = cluster.recipe / "conf" / "held.yaml"
    held.write_text("extra: [--hold]\n")
    export = ("--launcher", "slurm", "--stage", "8", "--stop-stage", "8")
    assert cluster.drive(*export, "--slurm-conf", str(held)).returncode == 0
    job = (undisturbed / "log" / "slurm" / "jobs").read_text().split()[-1]
    refused = cluster.drive(*export)
    assert refused.returncode == 2
    assert f"jobs of this run are still there: {job} PENDING (mini-tiny-stage8-export);" in refused.stdout
    release = threading.Timer(8.0, cluster.call, ("scontrol", "release", job))
    release.start()
    done = cluster.drive(*export, "--wait")
    release.join()
    assert done.returncode == 0, done.stdout
    assert f"waiting for the jobs of an earlier command: {job}" in done.stdout
    assert f"[stage8-export] job {job}: COMPLETED" in done.stdout
    assert "everything is done" in done.stdout
