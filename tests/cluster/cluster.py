"""A Slurm cluster of a test's own, and jobs of the driver in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "ss", "unshare")
PACKAGES = "slurmctld slurmd slurm-client munge iproute2"
WAIT_S = 240.0
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")

# A network on which an epoch takes a fraction of a second.
CONFIG = """
corpus: {name: audioset, train_lists: [train_segments.csv], eval_lists: [eval_segments.csv], valid_share: 0.2}
features: {preset: ast128, target_frames: 64, storage: stored}
encoder: {name: ast, embed_dim: 16, depth: 2, num_heads: 2, freq_stride: 16, time_stride: 16, dropout: 0.1}
data: {batch_size: 4, num_workers: 0}
optimizer: {name: adamw, lr: 1e-3}
training: {epochs: 40, log_every: 1, keep_last: 2, timeout_s: 20}
evaluation: {splits: [eval], bootstrap: 0}
"""
SLURM_YAML = """
cpus: 1
rendezvous_s: 40
stages: {train: {nodes: 2}}
"""


def why_not() -> str:
    """Why no cluster can be started here; empty where one can."""
    missing = [
        name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None
    ]
    if missing:
        return f"no {', '.join(missing)}: apt-get install --no-install-recommends {PACKAGES}"
    if os.getuid() != 0:
        return "a cluster of Slurm can only be started by root"
    if subprocess.run(["unshare", "--mount", "--uts", "--net", "true"], capture_output=True).returncode != 0:
        return "this system lets nobody make namespaces (unshare)"
    return ""


def why_not_apart() -> str:
    """Why nodes cannot have networks of their own here; empty where they can."""
    for kind in ("bridge", "veth"):
        for action in ("add", "delete"):
            command = ["ip", "link", action, "audiotag-try", "type", kind]
            if subprocess.run(command, capture_output=True).returncode != 0:
                return f"this system lets nobody make a network device ({' '.join(command)})"
    return ""


class Cluster:
    """A running cluster.

    Args:
        folder: where it lies.
        tree: a clone of the toolkit whose recipe `mini` has a configuration tiny.yaml.
    """

    def __init__(self, folder: Path, tree: Path) -> None:
        self.folder = folder
        self.tree = tree
        self.recipe = tree / "egs" / "mini"
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))
        }
        for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "CUDA_VISIBLE_DEVICES"):
            kept.pop(name, None)
        self.environment = {
            **kept,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "AUDIOTAG_PYTHON": sys.executable,
            "AUDIOTAG_POLL_S": "0.5",
            "MINI_TRAIN_CLIPS": "30",
            "MINI_EVAL_CLIPS": "12",
            "OMP_NUM_THREADS": "1",
        }

    def call(self, *command: str, cwd: Path | None = None) -> str:
        """What a command prints."""
        done = subprocess.run(
            command,
            cwd=cwd or self.tree,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def drive(self, *arguments: str) -> subprocess.CompletedProcess:
        """Call the driver on the tiny configuration."""
        return subprocess.run(
            ["bash", "run.sh", "--config", "conf/tiny.yaml", *arguments],
            cwd=self.tree,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * WAIT_S,
        )

    def submit(self, tag: str, *arguments: str, stage: int = 5) -> Job:
        """Submit the job of one stage."""
        stages = ("--stage", str(stage), "--stop-stage", str(stage))
        done = self.drive("--launcher", "slurm", "--tag", tag, *stages, *arguments)
        assert done.returncode == 0, done.stdout
        logs = self.exp(tag) / "log" / "slurm"
        return Job(self, (logs / "jobs").read_text().split()[-1], logs)

    def exp(self, tag: str) -> Path:
        """The folder of a run."""
        return self.recipe / "exp" / tag


class Job:
    """A job that was submitted."""

    def __init__(self, cluster: Cluster, number: str, logs: Path) -> None:
        self.cluster = cluster
        self.number = number
        self._logs = logs

    @property
    def log(self) -> str:
        """What it has written so far."""
        return "".join(path.read_text() for path in self._logs.glob(f"*-{self.number}.log"))

    def field(self, name: str) -> str:
        """One of the things that Slurm knows about it."""
        text = self.cluster.call("scontrol", "show", "job", "-o", self.number)
        return next(word.partition("=")[2] for word in text.split() if word.startswith(f"{name}="))

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until a text is in the log."""
        self.wait_until(lambda: self.log.count(text) >= count, text)

    def wait(self) -> str:
        """The state in which it has ended."""
        self.wait_until(lambda: self.field("JobState") in FINAL, "its end", even_if_over=True)
        return self.field("JobState")

    def wait_until(self, condition: Callable[[], bool], what: str, *, even_if_over: bool = False) -> None:
        """Poll a condition; the log is shown when it never holds."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            over = not even_if_over and self.field("JobState") in FINAL
            assert not over and time.monotonic() < deadline, f"waited in vain for {what}:\n{self.log}"
            time.sleep(0.1)

    def ranks(self) -> dict[int, int]:
        """Process ids of its training processes by rank."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = dict(
                    word.split("=", 1)
                    for word in (folder / "environ").read_text(errors="replace").split("\0")
                    if "=" in word
                )
                command = (folder / "cmdline").read_text()
            except (OSError, ValueError):
                continue
            if (
                words.get("SLURM_JOB_ID") == self.number
                and "RANK" in words
                and "audiotag.bin.train" in command
            ):
                found[int(words["RANK"])] = int(folder.name)
        return found


@contextmanager
def started(folder: Path, tree: Path, **settings: str) -> Iterator[Cluster]:
    """A cluster for the time of a `with`."""
    environment = {**os.environ, **settings}
    try:
        subprocess.run([HERE / "slurm_up.sh", folder], env=environment, check=True, timeout=WAIT_S)
        yield Cluster(folder, tree)
    finally:
        subprocess.run([HERE / "slurm_down.sh", folder], check=True, timeout=WAIT_S)
