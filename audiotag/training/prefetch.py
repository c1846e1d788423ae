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
    waiting: Batch | None = None
    for batch in batches:
        coming = copy_to(batch, device, stream)
        if waiting is not None:
            yield received(waiting, device, stream)
        waiting = coming
    if waiting is not None:
        yield received(waiting, device, stream)


def copy_to(batch: Batch, device: torch.device, stream: torch.cuda.Stream) -> Batch:
    """The batch with its values on the way to the device, and all else as it is."""
    with torch.cuda.stream(stream):
        return map_values(batch, lambda values: values.to(device, non_blocking=True))


def received(batch: Batch, device: torch.device, stream: torch.cuda.Stream) -> Batch:
    """The batch, for use on the current stream, which waits for the copy."""
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    # Memory that one stream has taken and another uses may be given to others only when both are done.
    map_values(batch, lambda values: values.record_stream(current))
    return batch


def map_values(batch: Batch, change: Callable[[torch.Tensor], Any]) -> Batch:
    """A copy of the batch with inputs and labels, its own and those of partners, changed."""
    changed = {name: change(batch[name]) for name in VALUES}
    if "partner" in batch:
        changed["partner"] = map_values(batch["partner"], change)
    return {**batch, **changed}
