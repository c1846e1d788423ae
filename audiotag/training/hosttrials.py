"""How much memory updates take on a CPU: the peak of a process that does nothing else.

A process for trials is started afresh, so that nothing of this one's memory, threads and random numbers has a
part in it; each trial runs in a fork of that one, of whose memory only the trial's own counts.
"""

from __future__ import annotations

import importlib
import multiprocessing
import re
import resource
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from audiotag.config import Config
from audiotag.errors import ConfigError, TrainingError
from audiotag.parents import signal_at_parents_death
from audiotag.training.trial import Trial

KIB = 2**10
MIB = 2**20
STATUS = Path("/proc/self/status")
RESET_PEAK = Path("/proc/self/clear_refs")
# What a process may take beyond the budget before it is refused: threads reserve what they never use.
SLACK = 256 * MIB
OUT_OF_MEMORY = re.compile(r"can't allocate memory|could not create a (memory|primitive)|bad_alloc")


class HostTrials:
    """Trials on a CPU; to be closed.

    Args:
        config: a whole configuration.
        num_classes: C.
        num_processes: of the run.
        budget: bytes that training may take. A trial is ended soon beyond, before the machine suffers.
    """

    def __init__(self, config: Config, num_classes: int, num_processes: int, budget: int) -> None:
        if not RESET_PEAK.exists():
            raise ConfigError("data.max_duration_s: auto needs Linux or a GPU: set a number of seconds")
        # Compiled, it needs no more; and that would take longer than all else.
        plain = config.training.model_copy(update={"compile": "off"})
        self.config = config.model_copy(update={"training": plain})
        self.num_classes = num_classes
        self.num_processes = num_processes
        self.budget = budget
        self._pool = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=prepare,
        )

    def peak(self, shapes: Sequence[tuple[int, float]]) -> float:
        """Bytes that updates on batches of these shapes take at their peak; infinite beyond the budget."""
        request = self.config, self.num_classes, self.num_processes, tuple(shapes), self.budget
        peak = self._pool.submit(peak_in_fork, *request).result()
        if isinstance(peak, str):
            raise TrainingError(f"data.max_duration_s: auto: a trial failed: {peak}")
        return peak

    def close(self) -> None:
        """End the process for trials."""
        self._pool.shutdown()


def prepare() -> None:
    """What the process for trials does first."""
    signal_at_parents_death(signal.SIGKILL)
    # Optimisers import it at their first step: seconds, and memory, that each trial would have to itself.
    importlib.import_module("torch._dynamo")


def peak_in_fork(*request: Any) -> float | str:
    """Run a trial in a fork of this process: its peak in bytes, infinite if it was killed, or an error."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=report_peak, args=(sender, *request))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return float("inf")
    finally:
        process.join()


def report_peak(
    sender: Connection,
    config: Config,
    num_classes: int,
    num_processes: int,
    shapes: Sequence[tuple[int, float]],
    budget: int,
) -> None:
    """Send the peak of a trial, or what went wrong."""
    signal_at_parents_death(signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_DATA, (read_status("VmData") + budget + SLACK,) * 2)
    before = read_status("VmRSS")
    RESET_PEAK.write_text("5")  # from proc(5): the peak begins anew
    try:
        trial = Trial(config, num_classes, torch.device("cpu"), num_processes)
        for shape in shapes:
            trial.run(*shape)
        sender.send(float(read_status("VmHWM") - before))
    except Exception as error:
        full = isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))
        sender.send(float("inf") if full else f"{type(error).__name__}: {error}")


def read_status(name: str) -> int:
    """A size of this process in bytes."""
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * KIB
    raise TrainingError(f"{STATUS} has no {name}: set data.max_duration_s to a number of seconds")
