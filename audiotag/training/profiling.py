"""A trace of chosen updates by torch's profiler: what the CPU and the GPU did when, and what took longest."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from audiotag.atomic import atomic_write
from audiotag.distributed import World
from audiotag.errors import ConfigError

logger = logging.getLogger(__name__)

SPEC = re.compile(r"(?P<first>[1-9]\d*)(:(?P<last>[1-9]\d*))?(?P<extras>(,\w+)*)", re.ASCII)
EXTRAS = ("memory", "shapes", "stacks", "ranks")
TABLE_ROWS = 60
TABLE_NAME_WIDTH = 70


@dataclass(frozen=True)
class Spec:
    """Which updates are traced, from `first` to `last`, and what else: `memory` (what each operation takes),
    `shapes` (of its inputs), `stacks` (the lines of Python), `ranks` (all processes, not only the first)."""

    first: int
    last: int
    extras: frozenset[str]


def parse_spec(text: str) -> Spec:
    """The updates that `--profile` names, such as `10:15`, `10` or `10:15,memory,ranks`."""
    match = SPEC.fullmatch(text)
    extras = frozenset(filter(None, match["extras"].split(","))) if match else frozenset()
    if not match or not extras <= set(EXTRAS):
        raise ConfigError(
            f"--profile {text}: expected the first and the last update, such as 10:15, and after them, with "
            f"commas, any of {', '.join(EXTRAS)}"
        )
    first, last = int(match["first"]), int(match["last"] or match["first"])
    if last < first:
        raise ConfigError(f"--profile {text}: the last update, {last}, comes before the first, {first}")
    return Spec(first, last, extras)


class Profiler:
    """Traces updates while training calls `step` after each of them.

    A trace opens in https://ui.perfetto.dev and in chrome://tracing. It grows by some MB with each update,
    which is slower than one that is not traced.

    Args:
        spec: what is traced; None traces nothing.
        folder: where the trace and the table go.
        world: the processes.
        done: updates that are done before the first call.
    """

    def __init__(self, spec: Spec | None, folder: Path, world: World, done: int = 0) -> None:
        self._spec = spec
        self._folder = folder
        self._world = world
        self._profile: profile | None = None
        self._mark: record_function | None = None
        self._traced = (done, done)
        if spec is not None and (world.is_main or "ranks" in spec.extras):
            self._go_on(done)
        else:
            self._spec = None

    def step(self, done: int) -> None:
        """An update is done, the `done`-th of the run: the trace begins or ends here if it is to."""
        if self._spec is not None:
            self._go_on(done)

    def close(self) -> None:
        """Training ends: write what was traced so far."""
        if self._profile is not None:
            self._finish()
        elif self._spec is not None:
            logger.warning(
                "nothing was profiled: updates %d to %d were none of this run's",
                self._spec.first,
                self._spec.last,
            )
        self._spec = None

    def _go_on(self, done: int) -> None:
        if self._profile is not None:
            self._mark.__exit__(None, None, None)
            self._traced = (self._traced[0], done)
        if done >= self._spec.last:
            if self._profile is not None:
                self._finish()
                self._spec = None
        elif done + 1 >= self._spec.first:
            if self._profile is None:
                self._begin(done)
            self._mark = record_function(f"update {done + 1}")
            self._mark.__enter__()

    def _begin(self, done: int) -> None:
        activities = [ProfilerActivity.CPU]
        if self._world.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.synchronize(self._world.device)
        self._profile = profile(
            activities=activities,
            profile_memory="memory" in self._spec.extras,
            record_shapes="shapes" in self._spec.extras,
            with_stack="stacks" in self._spec.extras,
            acc_events=True,
        )
        self._profile.start()
        self._traced = (done, done)
        logger.info("profiling from update %d on", done + 1)

    def _finish(self) -> None:
        """Stop, and write the trace and the table of what took longest."""
        if self._world.device.type == "cuda":
            torch.cuda.synchronize(self._world.device)
        finished, self._profile = self._profile, None
        finished.stop()
        first, last = self._traced[0] + 1, self._traced[1]
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"updates-{first}-{last}.rank{self._world.rank}"
        trace = self._folder / f"{name}.trace.json.gz"
        part = trace.with_name(f".{trace.name}.part.gz")  # torch goes by the ending
        finished.export_chrome_trace(str(part))
        part.replace(trace)
        with atomic_write(self._folder / f"{name}.ops.txt") as file:
            file.write(self._table(finished))
        logger.info("profile of updates %d to %d: %s, and a table beside it", first, last, trace)

    def _table(self, finished: profile) -> str:
        """The operations that took longest, by what the device spent on each itself."""
        key = "self_cuda_time_total" if self._world.device.type == "cuda" else "self_cpu_time_total"
        table = finished.key_averages(group_by_input_shape="shapes" in self._spec.extras).table(
            sort_by=key, row_limit=TABLE_ROWS, max_name_column_width=TABLE_NAME_WIDTH
        )
        return table + "\n"


def make_profiler(spec: str | None, folder: Path, world: World, *, done: int = 0) -> Profiler:
    """What `--profile` asks for; see `Profiler`."""
    return Profiler(parse_spec(spec) if spec else None, folder, world, done)
