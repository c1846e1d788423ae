"""Many trainings that are killed and started again at random moments, compared with an undisturbed one.

    python -m tests.training.soak --cycles 300 --folder /tmp/soak

A cycle is one start that ends by a signal. Moments are counted in calls of Python functions, not in seconds,
so that a slow machine sees the same ones: in the start as in updates, validations and half-written files.
The signal is SIGKILL, SIGTERM or SIGINT. A run that has come to its end must have the bits of the undisturbed
one, weights, optimiser, averages and curves alike; then the next begins.

Each start is a process of its own, forked from one that has imported everything, which saves the seconds that
imports take.
"""

from __future__ import annotations

import argparse
import atexit
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from audiotag.bin import train
from audiotag.errors import run_command
from tests.conftest import Recipe, make_recipe
from tests.training.processes import assert_same_run

# 36 clips in base batches of 3, two of them an update: six updates an epoch.
SOAK = """
include: config.yaml
data: {batch_size: 3, num_workers: 1, sampling: weighted}
training:
  epochs: 2
  accumulate: 2
  log_every: 1
  save_every_steps: 1
  validate_every_steps: 4
  keep_last_steps: 2
  ema: {decay: 0.9}
  running_average: {period: 2}
augment:
  mixup: {on: waveform, probability: 0.5, alpha: 10, partner: corpus}
  gain: {}
  masks: {name: ast, freq_width: 48, time_width: 20}
schedule: {name: cosine, warmup_steps: 4}
"""
LAST = "epoch-2.pt"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# A signal that comes before training listens to it ends the process as it ends any other.
STATUSES = {
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGTERM: {75, -signal.SIGTERM},
    signal.SIGINT: {75, 130},
}
# What a run of several minutes on a busy machine may take; one that hangs is a failure.
PATIENCE_S = 1200


class CallCounter:
    """Counts the calls in all threads of this process, and sends it a signal at one of them.

    at: the number of the call; None only counts. Loader processes, which are forked, count nothing.
    """

    def __init__(self, at: int | None, number: signal.Signals) -> None:
        self.calls = 0
        self._at = at
        self._number = number
        self._process = os.getpid()

    def start(self) -> None:
        """Begin to count."""
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def _note(self, frame: object, event: str, argument: object) -> None:
        if os.getpid() != self._process:
            sys.setprofile(None)
        elif event in ("call", "c_call"):
            self.calls += 1
            if self.calls == self._at:
                os.kill(self._process, self._number)


class Soak:
    """The runs in a recipe's folder.

    Args:
        recipe: with prepared data.
        seed: of the moments and signals.
    """

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.recipe = recipe
        self.chance = random.Random(seed)
        self.cycles: Counter[str] = Counter()
        self.runs = 0
        (recipe.folder / "soak.yaml").write_text(SOAK)
        done = recipe.run("stats", "--config", "soak.yaml")
        assert done.returncode == 0, done.stderr
        for folder in (recipe.folder / "exp").glob("soak-*"):
            shutil.rmtree(folder)
        self.whole = recipe.exp("soak-undisturbed")
        status, self.calls, output = self.start(self.whole)
        assert status == 0, output

    def go(self, cycles: int, report: Callable[[str], None] = print) -> None:
        """Disturb runs so many times, let each come to its end, and compare it."""
        while self.cycles.total() < cycles:
            self.runs += 1
            folder = self.recipe.exp(f"soak-{self.runs}")
            while not self.disturb(folder):
                pass
            assert not [path.name for path in folder.glob(".*.tmp")]
            assert_same_run(self.whole, folder, LAST)
            kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.cycles.items()))
            report(f"{self.runs} runs with the same bits after {self.cycles.total()} kills ({kinds})")

    def disturb(self, folder: Path) -> bool:
        """Start a run, or go on with it, and send it a signal; whether it came to its end before that."""
        number = self.chance.choice(SIGNALS)
        at = self.chance.randint(1, self.calls)
        status, _, output = self.start(folder, at, number)
        told = f"{number.name} at call {at:,} of {self.calls:,}, exit code {status}:\n{output[-3000:]}"
        assert "Traceback" not in output and "error:" not in output, told
        # Whatever the moment, no file that bears the name of a checkpoint is half of one.
        assert "looking for an earlier one" not in output, told
        if status == 0:
            return True
        assert status in STATUSES[number], told
        assert status != 75 or f"stopped by {number.name} after update" in output, told
        self.cycles[number.name] += 1
        return False

    def start(
        self, folder: Path, at: int | None = None, number: signal.Signals = signal.SIGKILL
    ) -> tuple[int, int, str]:
        """Exit code, calls and output of one start."""
        log = self.recipe.folder / "soak.log"
        arguments = ["train", "--config", "soak.yaml", "--exp-dir", str(folder)]
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        target = (self.recipe.folder, arguments, log, at, number, sender)
        process = context.Process(target=run_training, args=target)
        process.start()
        sender.close()
        process.join(PATIENCE_S)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"hangs after {number.name} at call {at}:\n{log.read_text()[-3000:]}")
        calls = receiver.recv() if receiver.poll() and process.exitcode == 0 else 0
        return process.exitcode, calls, log.read_text()


def run_training(
    folder: Path,
    arguments: list[str],
    log: Path,
    at: int | None,
    number: signal.Signals,
    sender: multiprocessing.connection.Connection,
) -> None:
    """What a forked process does: the training command in its folder, with its output in a file."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    sys.argv = arguments
    sys.orig_argv = ["python", *arguments]
    counter = CallCounter(at, number)
    counter.start()
    try:
        run_command(train.main)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        # A fork of multiprocessing leaves without this, which ends the loader processes.
        atexit._run_exitfuncs()
    sender.send(counter.calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cycles", type=int, default=300, help="kills to survive")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals")
    parser.add_argument("--folder", type=Path, required=True, help="where to work; made if absent")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    recipe = Recipe(args.folder.absolute())
    if not (recipe.folder / "data").exists():
        recipe.folder.mkdir(parents=True, exist_ok=True)
        make_recipe(recipe)
    Soak(recipe, args.seed).go(args.cycles)


if __name__ == "__main__":
    main()
