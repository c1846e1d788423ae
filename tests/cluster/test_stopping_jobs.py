"""Training jobs that are disturbed: they save, are queued again, and end as if nothing had happened."""

from __future__ import annotations

import os
import re
import shutil
import signal

import pytest
import torch

from audiotag.training.checkpoint import load_checkpoint
from tests.cluster.cluster import Cluster, Job
from tests.training.processes import assert_same_run, raw_points

pytestmark = pytest.mark.slow

LAST = "epoch-40.pt"
UPDATE = " update 6: "


def disturbed(cluster: Cluster, tag: str, *arguments: str) -> Job:
    """A training job that has begun and has saved."""
    job = cluster.submit(tag, *arguments)
    job.wait_for(UPDATE)
    return job


def assert_went_on(job: Job, undisturbed, tag: str) -> None:
    """It was queued again once, and has made the same run."""
    assert job.wait() == "COMPLETED", job.log
    assert job.field("Restarts") == "1"
    assert "SLURM_RESTART_COUNT=0" in job.log
    assert "SLURM_RESTART_COUNT=1" in job.log
    assert "resuming from" in job.log
    assert_same_run(undisturbed, job.cluster.exp(tag), LAST)


def test_before_the_time_limit_it_saves_and_queues_again(cluster: Cluster, undisturbed):
    """The notice comes as Slurm's --signal=B:USR1@... gives it; --restart must not begin anew again."""
    cluster.exp("notice").mkdir(parents=True)
    (cluster.exp("notice") / "of-an-earlier-run").touch()
    job = disturbed(cluster, "notice", "--restart")
    behind = ("--dependency", f"afterok:{job.number}", "-o", "/dev/null")
    after = Job(cluster, cluster.call("sbatch", "--parsable", *behind, "--wrap", "true"), cluster.folder)
    cluster.call("scancel", "--batch", "--signal=USR1", job.number)
    job.wait_for(f"job {job.number} is queued again")
    assert "stopped by SIGUSR1 after update" in job.log
    assert_went_on(job, undisturbed, "notice")
    assert "this run has begun afresh already" in job.log
    assert (cluster.exp("notice.old-1") / "of-an-earlier-run").exists()
    assert not cluster.exp("notice.old-2").exists()
    assert after.wait() == "COMPLETED"


def test_a_task_of_an_array_does_not_act_on_the_others(cluster: Cluster, undisturbed):
    """One of them has the number of the whole array for its own."""
    script = cluster.folder / "array.sh"
    script.write_text(
        "#!/usr/bin/env bash\n"
        'exec bash run.sh --config conf/tiny.yaml --tag "array$SLURM_ARRAY_TASK_ID" --stage 5 --stop-stage 5 '
        "--set training.epochs=40000 --set training.log_every=10\n"
    )
    options = ("--array=1-2", "--nodes=1", "--open-mode=append", "-o", f"{cluster.folder}/array-%A_%a.log")
    array = cluster.call("sbatch", "--parsable", *options, str(script))
    tasks = [Job(cluster, f"{array}_{task}", cluster.folder) for task in (1, 2)]
    for task in tasks:
        task.wait_for(" validation on ")
    tasks.sort(key=lambda task: task.field("JobId") == array)
    other, named_alike = tasks
    assert (other.field("JobId") == array, named_alike.field("JobId") == array) == (False, True)
    cluster.call("scancel", "--batch", "--signal=USR1", named_alike.number)
    named_alike.wait_for(f"job {named_alike.number} is queued again")
    assert "stopped by SIGUSR1 after update" in named_alike.log
    named_alike.wait_until(lambda: named_alike.field("Restarts") == "1", "a place in the queue")
    assert (other.field("JobState"), other.field("Restarts")) == ("RUNNING", "0")
    assert "SIGUSR1" not in other.log
    cluster.call("scancel", array)


def test_a_killed_process_is_started_again_in_place(cluster: Cluster, undisturbed):
    job = disturbed(cluster, "killed")
    os.kill(job.ranks()[1], signal.SIGKILL)
    assert job.wait() == "COMPLETED", job.log
    assert job.field("Restarts") == "0"
    assert "resuming from" in job.log
    assert_same_run(undisturbed, cluster.exp("killed"), LAST)


def test_a_cancelled_job_saves_and_is_not_queued_again(cluster: Cluster, undisturbed):
    job = disturbed(cluster, "cancelled", "--set", "training.epochs=4000")
    cluster.call("scancel", job.number)
    assert job.wait() == "CANCELLED"
    assert job.field("Restarts") == "0"
    assert "stopped by SIGTERM after update" in job.log


def test_it_goes_on_with_fewer_nodes(cluster: Cluster, undisturbed):
    together = ("--set", "training.batches_per_update=2")
    job = disturbed(cluster, "fewer", *together)
    cluster.call("scancel", job.number)
    job.wait()
    job = cluster.submit("fewer", "--num-nodes", "1", *together)
    assert job.wait() == "COMPLETED", job.log
    assert "by 2 processes so far, by 1 from here: the effective batch stays at 2 batches" in job.log
    states = [load_checkpoint(folder / LAST) for folder in (undisturbed, cluster.exp("fewer"))]
    assert states[0]["position"]["step"] == states[1]["position"]["step"]
    torch.testing.assert_close(states[1]["model"], states[0]["model"], atol=1e-4, rtol=1e-3)


def test_what_cannot_be_mended_is_not_tried_again(cluster: Cluster, undisturbed):
    shutil.copytree(undisturbed, cluster.exp("changed"), ignore=shutil.ignore_patterns("log"))
    job = cluster.submit("changed", "--set", "optimizer.lr=2e-3", "--set", "training.epochs=41")
    assert job.wait() == "FAILED"
    assert job.field("ExitCode") == "2:0"
    assert "was trained with another configuration: optimizer.lr" in job.log
    assert job.log.count("process 0 of 2 on cpu") == 1


def test_a_job_that_others_come_before_saves_and_queues_again(cluster: Cluster, undisturbed):
    low = cluster.tree / "low.yaml"
    low.write_text("partition: low\nstages: {train: {nodes: 2}}\n")
    # Slurm looks for jobs to come before others every half a minute only.
    job = disturbed(cluster, "preempted", "--slurm-conf", str(low), "--set", "training.epochs=40000")
    cluster.call("sbatch", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    job.wait_for("resuming from")
    assert "SLURM_RESTART_COUNT=1" in job.log
    saved = re.search(r"stopped by SIG\w+ after update (\d+); saved exp/preempted/(\S+);", job.log)
    assert f"resuming from exp/preempted/{saved[2]}" in job.log
    job.wait_for(f" update {int(saved[1]) + 1}: ")
    cluster.call("scancel", job.number)
    job.wait()
    for tag, points in raw_points(cluster.exp("preempted")).items():
        steps = [step for step, _ in points]
        assert len(set(steps)) == len(steps), tag


def test_slurm_gives_notice_before_the_time_limit(cluster: Cluster, undisturbed):
    settings = cluster.tree / "limit.yaml"
    settings.write_text("time: '1'\nnotice_s: 30\nstages: {train: {nodes: 2}}\n")
    long = ("--set", "training.epochs=40000", "--set", "training.log_every=1000")
    job = cluster.submit("limit", "--slurm-conf", str(settings), *long)
    job.wait_for(f"job {job.number} is queued again")
    assert "SIGUSR1: stopping" in job.log
    assert "stopped by SIGUSR1 after update" in job.log
    job.wait_until(lambda: job.field("JobState") in ("PENDING", "RUNNING"), "its place in the queue")
    cluster.call("scancel", job.number)


def test_a_notice_while_a_job_is_set_up_is_kept(cluster: Cluster):
    settings = cluster.tree / "setup.yaml"
    settings.write_text("setup: [echo is set up, sleep 4]\n")
    job = cluster.submit("setup", "--slurm-conf", str(settings), stage=7)
    job.wait_for("is set up")
    cluster.call("scancel", "--signal=USR1", "--batch", job.number)
    job.wait_for(f"job {job.number} is queued again")
    assert "stage 7" not in job.log
    cluster.call("scancel", job.number)
    job.wait()
