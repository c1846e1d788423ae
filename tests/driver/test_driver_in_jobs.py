"""The driver as the script of a Slurm job, whose commands are stand-ins that note what they are asked for."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clone import add_recipe, environment
from test_driver_signals import wait_for

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/comm").exists() or shutil.which("flock") is None,
    reason="jobs of Slurm are found out through /proc, and locks are held by flock",
)
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_NNODES": "1"}
COMMANDS = {
    "scontrol": """
case $1 in
    show) if [[ $2 == job ]]; then echo "JobId=7 JobState=RUNNING Reason=None"; else echo n1; fi ;;
    requeue) echo "$2" >>"$CALLS" ;;
esac
""",
    "srun": 'echo "srun: error: Unable to create step for job 7" >&2; exit 1\n',
    "scancel": "",
}
# In place of a program that the driver calls as it starts.
SLOW = """
if [[ ! -e $CALLS.begun ]]; then
    touch "$CALLS.begun"
    until [[ -e $CALLS.end ]]; do sleep 0.05; done
fi
exec {program} "$@"
"""
RECIPES = [
    pytest.param(f"egs/{path.parent.name}/run.sh", "dirname", marks=pytest.mark.slow)
    for path in sorted((Path(__file__).parents[2] / "egs").glob("*/run.sh"))
]
# Stage 0 of a test's own: it begins, and ends when it is told to.
CORPUS = """
mkdir -p "$1" && touch begun
until [[ -e end ]]; do sleep 0.1; done
"""


class Node:
    """A machine on which Slurm starts the driver.

    Args:
        tree: a clone of the toolkit.
        folder: where the stand-ins go.
    """

    def __init__(self, tree: Path, folder: Path) -> None:
        self.tree = tree
        self.calls = folder / "calls"
        self.output = folder / "output"
        self._folder = folder
        self._last: subprocess.Popen | None = None
        folder.mkdir()
        for name, text in COMMANDS.items():
            (folder / name).write_text(f"#!/usr/bin/env bash\n{text}")
            (folder / name).chmod(0o755)
        (folder / "slurmstepd").symlink_to(shutil.which("bash"))

    def start(self, *arguments: str, called: str = "run.sh", **changes: str) -> subprocess.Popen:
        """Start the driver as slurmstepd does; its process id goes to a file."""
        (self._folder / "pid").unlink(missing_ok=True)
        script = f'bash {called} "$@" & echo $! >"$0.part"; mv "$0.part" "$0"; wait $!'
        path = f"{self._folder}:{os.environ['PATH']}"
        with self.output.open("w") as file:
            self._last = subprocess.Popen(
                [self._folder / "slurmstepd", "-c", script, self._folder / "pid", *arguments],
                cwd=self.tree,
                env=environment(PATH=path, CALLS=str(self.calls), **{**JOB, **changes}),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        return self._last

    def end(self) -> None:
        """End a driver that a test which failed has left."""
        if self._last is not None and self._last.poll() is None:
            os.kill(int((self._folder / "pid").read_text()), signal.SIGTERM)
            self._last.wait(timeout=60)

    def run(self, *arguments: str, **changes: str) -> int:
        """Its exit code."""
        return self.start(*arguments, **changes).wait(timeout=120)

    def notify(self) -> None:
        """Slurm's notice before the time limit."""
        os.kill(int((self._folder / "pid").read_text()), signal.SIGUSR1)

    def said(self, text: str) -> bool:
        """Whether the driver has printed a text."""
        return text in self.output.read_text()

    def queued(self) -> list[str]:
        """What was queued again."""
        return self.calls.read_text().split() if self.calls.exists() else []


@pytest.fixture
def node(tree, tmp_path) -> Iterator[Node]:
    node = Node(tree, tmp_path / "node")
    yield node
    node.end()


@contextmanager
def held(lock: Path, holder: str):
    """Somebody has a lock."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{holder}\n")
        file.flush()
        yield


def notified_while_it_waits(node: Node, **changes: str) -> int:
    """A job of stage 1 gets its notice before it has begun."""
    with held(node.tree / "egs" / "mini" / "data" / ".lock", "process 1 on n9, since ever"):
        driver = node.start("--stage", "1", "--stop-stage", "1", **changes)
        wait_for(lambda: node.said("waiting for another run"), seconds=60)
        node.notify()
        return driver.wait(timeout=60)


def test_a_task_of_an_array_that_does_nothing_yet_queues_itself_alone_again(node):
    assert notified_while_it_waits(node, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="2") == 138
    assert node.queued() == ["7_2"]
    assert node.said("job 7_2 is queued again")


@pytest.mark.parametrize(("called", "program"), [("run.sh", "dirname"), ("run.sh", "nproc"), *RECIPES])
def test_a_notice_before_the_driver_is_ready_is_kept(node, called, program):
    """Also when it calls itself again by way of the recipe: by then the first of them has long ended."""
    stand_in = node.calls.with_name(program)
    stand_in.write_text(f"#!/usr/bin/env bash\n{SLOW.format(program=shutil.which(program))}")
    stand_in.chmod(0o755)
    driver = node.start("--stop-stage", "0", called=called)
    wait_for(Path(f"{node.calls}.begun").exists)
    node.notify()
    Path(f"{node.calls}.end").touch()
    assert driver.wait(timeout=60) == 138
    assert node.queued() == ["7"]
    assert not node.said("stage 0")


@pytest.mark.slow
def test_a_job_that_gets_nowhere_is_not_queued_for_ever(node):
    for _ in range(3):
        notified_while_it_waits(node)
    assert node.queued() == ["7", "7", "7"]
    data = node.tree / "egs" / "mini" / "data"
    (data / "manifests").mkdir()
    (data / "log").mkdir()
    (data / "manifests" / "probes.jsonl").write_text("work")
    notified_while_it_waits(node)
    assert node.queued() == ["7", "7", "7", "7"]
    (data / "log" / "stage1.log").write_text("no work")
    for _ in range(3):
        notified_while_it_waits(node)
    assert len(node.queued()) == 6
    assert node.said("job 7 is not queued again: its last 3 runs got no further")
    exp = node.tree / "egs" / "mini" / "exp" / "ast_tiny"
    (exp / "step-3.pt").touch()
    notified_while_it_waits(node)
    assert len(node.queued()) == 7


def test_what_saves_nothing_goes_on_at_the_notice_and_nothing_begins_behind_it(node):
    recipe = add_recipe(node.tree, "waiting", CORPUS)
    start = time.monotonic()
    driver = node.start("--recipe", "waiting")
    wait_for((recipe / "begun").exists, seconds=60)
    # Longer than all that came before it.
    time.sleep(time.monotonic() - start + 2)
    node.notify()
    wait_for(lambda: node.said("SIGUSR1: this stage saves nothing to go on from"))
    assert not node.queued()
    (recipe / "end").touch()
    assert driver.wait(timeout=60) == 138
    assert node.said("finished in")
    assert node.said("[stage 1: manifests] the time ends soon: not begun")
    assert node.queued() == ["7"]


@pytest.mark.slow
def test_what_has_just_begun_ends_at_the_notice(node):
    recipe = add_recipe(node.tree, "waiting", CORPUS)
    with held(recipe / "data" / ".lock", "process 1 on n9, since ever"):
        driver = node.start("--recipe", "waiting")
        wait_for(lambda: node.said("waiting for another run"), seconds=60)
        time.sleep(6)
    wait_for((recipe / "begun").exists, seconds=60)
    node.notify()
    assert driver.wait(timeout=60) == 138
    assert node.said("[stage 0: corpus] stopped")
    assert node.queued() == ["7"]


@pytest.mark.parametrize(
    ("holder", "message", "queued"),
    [
        ("process 1 on n9, job 7, since ever", "it is still there after 2 s", ["7"]),
        ("process 1 on n9, job 8, since ever", "another run is training in", []),
    ],
)
def test_a_lock_of_training_is_not_waited_for_without_end(node, holder, message, queued):
    changes = {"SLURM_RESTART_COUNT": "1", "AUDIOTAG_RENDEZVOUS_S": "2"}
    with held(node.tree / "egs" / "mini" / "exp" / "ast_tiny" / ".lock", holder):
        assert node.run("--stage", "5", "--stop-stage", "5", **changes) == 2
    assert node.said(message)
    assert node.said(f"({holder})")
    assert node.queued() == queued


def test_force_is_for_the_first_run_of_a_job(node):
    stages = ("--stop-stage", "0", "--force")
    for changes, redone in (({}, True), ({}, True), ({"SLURM_RESTART_COUNT": "1"}, False)):
        assert node.run(*stages, **changes) == 0
        assert node.said("finished in") == redone
        assert node.said("already done") != redone


def test_folds_over_several_nodes_are_refused(node):
    assert node.run("--recipe", "esc50", "--set", "corpus.dir=/x", SLURM_NNODES="2") == 2
    assert node.said(
        "all folds in one job of 2 nodes: take one node, or a task for each fold by sbatch --array"
    )


def test_failing_nodes_are_counted_apart_from_time_limits(node):
    recipe = node.tree / "egs" / "mini"
    stage = ("--stage", "5", "--stop-stage", "5", "--set", "features.storage=on_the_fly")
    # Files without a mark are a user's own, and the processes that would read them do not start.
    while node.run(*stage, SLURM_RESTART_COUNT="50") == 2:
        missing = recipe / re.search(r"needs (\S+), which stage", node.output.read_text())[1]
        missing.parent.mkdir(parents=True)
        missing.touch()
    assert node.said("Slurm has ended the processes, or not started them within 300 s")
    assert node.queued() == ["7"]
