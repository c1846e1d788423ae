"""What the training loop costs beside the arithmetic: overhead, saving, resuming, validation, processes.

The overhead is that of the real trainer over a bare loop of features, forward, backward, clipping and step on
the same batches, which are in memory. The two take turns with every update, so that a machine that others use
as well slows down both. Beside wall-clock time stands the processor time of the training process.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from audiotag.benchmarks.processes import machine
from audiotag.benchmarks.scaling import measure_processes
from audiotag.commandline import add_config_arguments, config_from_args, positive
from audiotag.config import Config
from audiotag.distributed import World, choose_device
from audiotag.errors import DataError
from audiotag.evaluation.scoring import model_inputs
from audiotag.stopwatch import spread
from audiotag.training.run import StartOptions, prepare_trainer
from audiotag.training.signals import StopRequest
from audiotag.training.trainer import Trainer

logger = logging.getLogger(__name__)


class Cost(NamedTuple):
    """Seconds of a piece of work.

    Args:
        wall_s: by the clock.
        cpu_s: of processors, by this process.
    """

    wall_s: float
    cpu_s: float

    def less(self, other: Cost) -> Cost:
        """What is left without another's."""
        return Cost(self.wall_s - other.wall_s, self.cpu_s - other.cpu_s)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_config_arguments(parser)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of stages 1-4")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto for a GPU where there is one")
    parser.add_argument(
        "--rounds", type=positive, default=9, help="epochs of the trainer and of the bare loop"
    )
    parser.add_argument(
        "--processes",
        type=positive,
        default=2,
        help="processes beside one, in the last measurement; 1 for none",
    )


def run(args: argparse.Namespace) -> str:
    """Measure, and give the figures as a Markdown table."""
    config = config_from_args(args)
    device = choose_device(args.device)
    world = World(rank=0, local_rank=0, size=1, device=device)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_engine(config, args.data_dir, Path(folder) / "run", world, args.rounds)
        if args.processes > 1:
            rows += measure_processes(args, Path(folder))
    head = [
        f"batches of {config.data.batch_size}, {torch.get_num_threads()} threads on {device}, {machine()}; "
        "median (lowest to highest)",
        "",
        "| what | figure |",
        "|---|---|",
    ]
    return "\n".join([*head, *(f"| {title} | {figure} |" for title, figure in rows)])


def measure_engine(
    config: Config, data_dir: Path, exp_dir: Path, world: World, rounds: int
) -> list[tuple[str, str]]:
    """Overhead, saving, resuming and validation of a run in a folder of its own."""
    fresh_s, trainer = timed(lambda: open_trainer(config, data_dir, exp_dir, world))
    batches = list(trainer.train_loader(1, 0))
    size = trainer.settings["accumulate"]
    if len(batches) < 2 * size:
        raise DataError(f"{data_dir} has only {len(batches)} training batches: too few to measure anything")
    bare = BareLoop(config, data_dir, exp_dir.with_name("bare"), world, batches)
    logger.info("measuring the loop on %d batches", len(batches))
    with without_end(trainer):
        trained, own = take_turns(trainer, bare, batches, rounds)
        loaded_s = [timed(lambda: train_in_memory(trainer, None))[0].wall_s for _ in range(3)]
    handed_s, written_s = measure_saving(trainer, rounds)
    rows = [
        ("an epoch of the bare loop, s", show(spread([cost.wall_s for cost in own]), 3)),
        ("an epoch of the trainer, s", show(spread([cost.wall_s for cost in trained]), 3)),
        ("overhead of the trainer, %", show(spread(overheads(trained, own, "wall_s")), 1)),
        ("the same in processor time, %", show(spread(overheads(trained, own, "cpu_s")), 1)),
        ("an epoch with the loader, s", show(spread(loaded_s), 3)),
        ("save: training waits, ms", show(spread([1000 * s for s in handed_s]), 1)),
        ("save: until it is on disk, ms", show(spread([1000 * s for s in written_s]), 1)),
    ]
    if trainer.validation is not None:
        trainer.validation(trainer.tagger, 1, trainer.position.step, lambda: False)  # starts its workers
        valid_s = timed(lambda: trainer.validation(trainer.tagger, 1, trainer.position.step, lambda: False))[
            0
        ].wall_s
        share = valid_s / (valid_s + statistics.median(loaded_s))
        rows.append(("validation, share of an epoch, %", f"{100 * share:.1f} ({valid_s:.3f} s)"))
    trainer.log.close()
    again_s, resumed = timed(lambda: open_trainer(config, data_dir, exp_dir, world))
    resumed.log.close()
    rows.append(("start: fresh, and from a checkpoint, s", f"{fresh_s.wall_s:.2f}, {again_s.wall_s:.2f}"))
    return rows


def open_trainer(config: Config, data_dir: Path, exp_dir: Path, world: World) -> Trainer:
    """The trainer of a run in a folder, which goes on where there is a checkpoint."""
    exp_dir.mkdir(parents=True, exist_ok=True)
    trainer = prepare_trainer(config, data_dir, exp_dir, world, StartOptions(), StopRequest())
    trainer.freezer.apply(1)
    trainer.learner.distribute()
    return trainer


class BareLoop:
    """Features, forward, backward, clipping and step, and nothing else, with a model of its own.

    Args:
        config, data_dir, exp_dir, world: as for the trainer, whose model this one equals.
        batches: of an epoch.
    """

    def __init__(
        self, config: Config, data_dir: Path, exp_dir: Path, world: World, batches: list[dict[str, Any]]
    ) -> None:
        twin = open_trainer(config, data_dir, exp_dir, world)
        twin.log.close()
        twin.set_modes()
        twin.learner.set_batch_count(0.0)
        self.model, self.loss = twin.tagger, twin.learner.loss
        self.optimizer, self.scaler = twin.learner.optimizer, twin.learner.scaler
        self.autocast, self.clip_norm = twin.learner.autocast, twin.learner.clip_norm
        self.size, self.device = twin.settings["accumulate"], world.device
        self.batches = batches

    def update(self, first: int) -> None:
        """The update that begins with this batch."""
        group = self.batches[first : first + self.size]
        for batch in group:
            features, lengths = model_inputs(self.model.frontend, batch, self.device)
            with self.autocast():
                logits = self.model(features, lengths)
            loss = self.loss(logits, batch["labels"].to(self.device, non_blocking=True))
            self.scaler.scale(loss / len(group)).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


class Turns:
    """Batches of an epoch for the trainer; before those of an update the bare loop makes its own.

    Args:
        batches: of an epoch.
        bare: the bare loop.
    """

    def __init__(self, batches: list[dict[str, Any]], bare: BareLoop) -> None:
        self.batches = batches
        self.bare = bare
        self.spent = Cost(0.0, 0.0)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(self.batches):
            if number % self.bare.size == 0:
                cost, _ = timed(lambda first=number: self.bare.update(first), self.bare.device)
                self.spent = Cost(self.spent.wall_s + cost.wall_s, self.spent.cpu_s + cost.cpu_s)
            yield batch


def train_in_memory(trainer: Trainer, batches: Turns | list[dict[str, Any]] | None) -> None:
    """An epoch of the trainer, with batches that are there, or as it loads them."""
    load = trainer.train_loader
    trainer.train_loader = load if batches is None else (lambda epoch, first: batches)
    try:
        trainer.train_epoch(trainer.position.epoch + 1)
    finally:
        trainer.train_loader = load


@contextmanager
def without_end(trainer: Trainer) -> Iterator[None]:
    """Epochs end without validation and checkpoint, which are measured by themselves."""

    def turn_over(epoch: int) -> None:
        trainer.position.epoch, trainer.position.batch = epoch, 0

    trainer.end_epoch = turn_over
    try:
        yield
    finally:
        del trainer.end_epoch


def take_turns(
    trainer: Trainer, bare: BareLoop, batches: list[dict[str, Any]], rounds: int
) -> tuple[list[Cost], list[Cost]]:
    """What an epoch of the trainer and one of the bare loop cost in each round, an update of each in turn."""
    ours, others = [], []
    for number in range(rounds + 1):
        turns = Turns(batches, bare)
        total, _ = timed(lambda turns=turns: train_in_memory(trainer, turns), trainer.world.device)
        if number:  # the first warms up
            others.append(turns.spent)
            ours.append(total.less(turns.spent))
    return ours, others


def overheads(ours: list[Cost], bare: list[Cost], kind: str) -> list[float]:
    """Per cent by which ours took longer, round by round."""
    pairs = zip(ours, bare, strict=True)
    return [100 * (getattr(one, kind) / getattr(other, kind) - 1) for one, other in pairs]


def measure_saving(trainer: Trainer, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds that training waits for a checkpoint, and until it is on disk."""
    handed, written = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        trainer.save({})
        handed.append(time.perf_counter() - start)
        trainer.keeper.finish()
        written.append(time.perf_counter() - start)
    return handed, written


def timed(work: Callable[[], Any], device: torch.device | None = None) -> tuple[Cost, Any]:
    """What a piece of work costs, and what it returns."""
    wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else (lambda: None)
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wait()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu), result


def show(values: dict[str, float], digits: int) -> str:
    """A table cell."""
    median, low, high = (f"{values[key]:.{digits}f}" for key in ("median", "lowest", "highest"))
    return f"{median} ({low} to {high})"
