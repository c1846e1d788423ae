"""What all processes agree on at each update: whether to stop, and whether a number was not finite."""

from __future__ import annotations

import torch
import torch.distributed as dist

from audiotag.distributed import World


class StepFlags:
    """The flags of an update, over all processes.

    On a GPU the answer would have to be waited for, while the device idles: there it is that of the update
    before (`lagged`). An update that is found to be bad only later must not have changed the weights by then;
    `bad`, on the device, is set from the first bad update on, and where it is, the optimiser leaves them
    alone.

    Args:
        world: the processes.
        lagged: answer one update late.
    """

    def __init__(self, world: World, lagged: bool) -> None:
        self.world = world
        self.lagged = lagged
        self.bad = torch.zeros((), device=world.device)
        self._posted: tuple[torch.Tensor, torch.cuda.Event | None] | None = None

    def exchange(self, stop: bool, bad: torch.Tensor) -> tuple[bool, bool]:
        """Tell the others of this update; whether any process is to stop, and whether any met bad numbers.

        Args:
            stop: this process was asked to stop.
            bad: scalar on the device, above 0 where this process' loss or gradient is not finite.
        """
        flags = torch.stack([torch.full_like(self.bad, float(stop)), bad.to(self.bad.dtype)])
        if self.world.size > 1:
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        self.bad = torch.maximum(self.bad, flags[1])
        if not self.lagged:
            return read(flags)
        before = self.settle()
        self._posted = self._post(flags)
        return before

    def settle(self) -> tuple[bool, bool]:
        """The flags that were not told yet."""
        if self._posted is None:
            return False, False
        (copy, event), self._posted = self._posted, None
        if event is not None:
            event.synchronize()
        return read(copy)

    def _post(self, flags: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """Start the way of the flags to the CPU."""
        if flags.device.type != "cuda":
            return flags, None
        copy = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True).copy_(flags, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return copy, event


def read(flags: torch.Tensor) -> tuple[bool, bool]:
    """The two flags."""
    stop, bad = flags.tolist()
    return stop > 0, bad > 0
