"""The processes of a run: who am I, how many are we, on which device; and what we tell each other."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from audiotag.errors import ConfigError, StoppedBySignal, TrainingError
from audiotag.parents import signal_at_parents_death
from audiotag.rollcall import RollCall


@dataclass(frozen=True)
class World:
    """One process among `size`; a run without torchrun is a world of one."""

    rank: int
    local_rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs, checkpoints and results."""
        return self.rank == 0

    def gather(self, item: Any) -> list[Any]:
        """The items of all processes in the order of their ranks, on every process."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def leave(self, stop: StoppedBySignal) -> NoReturn:
        """End the run on every process, for a reason that is said before the first of them leaves: a
        launcher that sees one go may end the others."""
        stop.say()
        self.barrier()
        raise stop


@contextmanager
def join_world(device: str = "auto", timeout_s: float = 600.0) -> Iterator[World]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    When one of them fails or dies, the others leave too, and say why it was.

    Args:
        device: see `choose_device`.
        timeout_s: how long a process waits for another before it gives up.
    """
    rank = int(os.environ.get("RANK", 0))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    size = int(os.environ.get("WORLD_SIZE", 1))
    chosen = choose_device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # Workers whose launcher was killed would train on, unseen; so they are asked to stop instead.
        signal_at_parents_death(signal.SIGTERM)
    world = World(rank, local_rank, size, chosen)
    if size == 1:
        yield world
        return
    roll_call = meet(world, timeout_s)
    try:
        yield world
    except StoppedBySignal:
        raise
    except BaseException as error:
        # The launcher ends the survivors of a dead process by SIGTERM; they are about to say who it was.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if (cause := roll_call.explain(error)) is not None:
            raise cause from error
        raise
    finally:
        dist.destroy_process_group()
        roll_call.leave()


def meet(world: World, timeout_s: float) -> RollCall:
    """Find the other processes, and begin to see whether they live."""
    # A process that waits too long for a collective operation of NCCL is ended.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    timeout = timedelta(seconds=timeout_s)
    try:
        store, _, _ = next(dist.rendezvous("env://", world.rank, world.size, timeout=timeout))
        roll_call = RollCall(
            dist.PrefixStore("audiotag", store.clone()), world.rank, world.size, timeout_s=timeout_s
        )
        dist.init_process_group(
            "nccl" if world.device.type == "cuda" else "gloo",
            store=store,
            rank=world.rank,
            world_size=world.size,
            timeout=timeout,
        )
    except (dist.DistError, RuntimeError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise TrainingError(
            f"the {world.size} processes did not find each other at {address} within {timeout_s:g} s "
            f"({error}): see that every node runs the same command with the same MASTER_ADDR and MASTER_PORT"
        ) from error
    roll_call.start()
    return roll_call


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """`auto` is this process' own GPU where there is one, else the CPU; a name is taken as it is."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cuda":
        return torch.device(device)
    if not torch.cuda.is_available():
        raise ConfigError(
            "a GPU is asked for, but torch sees none here (take --device cpu, or ./run.sh --ngpu 0)"
        )
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"{local_rank + 1} processes on this node need as many GPUs, "
            f"but torch sees {torch.cuda.device_count()}"
        )
    return torch.device("cuda", local_rank)
