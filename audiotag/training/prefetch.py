"""The next batch travels to the GPU while the present one is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from audiotag.data.dataset import Batch

VALUES = ("inputs", "labels")


def prefetch(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches, for training, with their values on the device; on a CPU as they are.

    The copy of a batch is queued on a stream of its own before the one ahead of it is handed out, so that the
    device computes and copies at once, for which the batches must lie in page-locked memory. Lengths and
    places stay on the host, where random choices are made of them.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        coming = copy_to(batch, device, stream)
        if waiting is not None:
            yield received(*waiting, device)
        waiting = coming
    if waiting is not None:
        yield received(*waiting, device)


def copy_to(batch: Batch, device: torch.device, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
    """The batch with its values on the way to the device, and all else as it is; and what tells when they
    have arrived."""
    arrived = torch.cuda.Event()
    with torch.cuda.stream(stream):
        moved = map_values(batch, lambda values: values.to(device, non_blocking=True))
        arrived.record()
    return moved, arrived


def received(batch: Batch, arrived: torch.cuda.Event, device: torch.device) -> Batch:
    """The batch, for use on the current stream, which waits for its copy, not for those queued behind it."""
    current = torch.cuda.current_stream(device)
    current.wait_event(arrived)
    # Memory that one stream has taken and another uses may be given to others only when both are done.
    map_values(batch, lambda values: values.record_stream(current))
    return batch


def map_values(batch: Batch, change: Callable[[torch.Tensor], Any]) -> Batch:
    """A copy of the batch with inputs and labels, its own and those of partners, changed."""
    changed = {name: change(batch[name]) for name in VALUES}
    if "partner" in batch:
        changed["partner"] = map_values(batch["partner"], change)
    return {**batch, **changed}
