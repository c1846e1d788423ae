"""The processes of a run: who am I, how many are we, on which device; and what we tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from audiotag.errors import ConfigError


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


@contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Join the processes that torchrun started, if it did, and leave them at the end."""
    rank = int(os.environ.get("RANK", 0))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    size = int(os.environ.get("WORLD_SIZE", 1))
    chosen = choose_device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size > 1:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(rank, local_rank, size, chosen)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


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
