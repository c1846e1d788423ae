"""A small corpus, prepared once, and a way to run the commands on it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processtree import end_with_tracebacks

ROOT = Path(__file__).resolve().parents[1]

CONFIG = """
corpus: {dir: corpus, train_lists: [train_segments.csv], eval_lists: [eval_segments.csv], valid_share: 0.2}
features: {preset: ast128, target_frames: 64, storage: on_the_fly}
encoder: {name: ast, embed_dim: 16, depth: 2, num_heads: 2, freq_stride: 16, time_stride: 16, dropout: 0.1}
data: {batch_size: 9, num_workers: 1}
optimizer: {name: adamw, lr: 1e-3}
training: {epochs: 4, log_every: 2}
"""


def pytest_addoption(parser):
    parser.addoption(
        "--soak-cycles",
        type=int,
        default=12,
        help="kills in tests/training/test_soak.py (slow); 300 take 20 min",
    )


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """What a command sets up that a test calls in its own process must not reach the next test."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


class Recipe:
    """A folder with prepared data in which commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, module: str, *arguments: str, processes: int = 1) -> subprocess.CompletedProcess:
        """Run a command of the package, under torchrun for several processes."""
        launcher = ["-m", f"audiotag.bin.{module}"]
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            launcher += ["-m", f"audiotag.bin.{module}"]
        process = subprocess.Popen(
            [sys.executable, *launcher, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            output, errors = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            end_with_tracebacks(process)
            output, errors = process.communicate(timeout=60)
            raise AssertionError(f"does not end:\n{output}\n{errors}") from None
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def train(self, name: str, *overrides: str, options: tuple[str, ...] = (), processes: int = 1):
        """Run training into exp/<name>."""
        settings = [word for override in overrides for word in ("--set", override)]
        arguments = ["--config", "config.yaml", "--exp-dir", f"exp/{name}", *settings, *options]
        return self.run("train", *arguments, processes=processes)

    def exp(self, name: str) -> Path:
        """The folder of a run."""
        return self.folder / "exp" / name


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Recipe:
    """48 clips, 12 of which are held out of training, and 12 more to evaluate on."""
    return make_recipe(Recipe(tmp_path_factory.mktemp("recipe")))


def make_recipe(recipe: Recipe) -> Recipe:
    """Generate and prepare the small corpus in a recipe's folder."""
    (recipe.folder / "config.yaml").write_text(CONFIG)
    for module, *arguments in (
        ("synthesize", "--dest", "corpus", "--seed", "7", "--train-clips", "48", "--eval-clips", "12"),
        ("prepare", "--config", "config.yaml"),
    ):
        done = recipe.run(module, *arguments)
        assert done.returncode == 0, done.stderr
    return recipe


@pytest.fixture
def mount(tmp_path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a file system in memory with some options; a test that may not is skipped."""
    mounted: list[Path] = []

    def mounting(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("mounting is not permitted here")
        mounted.append(folder)
        return folder

    yield mounting
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)
