"""`data.max_duration_s: auto`: the most seconds of a batch that fit into memory, found by trying.

What a clip needs grows with its length l like a + b l + c l^2. Of a batch filled up to D seconds, D / l clips
need D (a / l + b + c l), which is largest at one end: with the longest clips, or with the shortest, of
which there are most. So these two batches are tried.

How: by updates of a model with the real sizes (`trial.py`), on a GPU until memory runs out, without one in a
process of their own, whose peak is compared with what the machine, or the process' control group, has left.
"""

from __future__ import annotations

import logging
import math
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
import torch

from audiotag.config import Config
from audiotag.distributed import World
from audiotag.errors import TrainingError
from audiotag.training.gputrials import GpuTrials
from audiotag.training.hostmemory import available_bytes
from audiotag.training.hosttrials import HostTrials

logger = logging.getLogger(__name__)

MIB = 2**20
# Shares of what is free. The rest is for what a trial does not have: fragmentation of a GPU's memory, NCCL's
# buffers, validation; on the host loader processes.
GPU_SHARE = 0.9
HOST_SHARE = 0.8
# Only sizes of this many binary digits are tried, so that some MiB more or less do not change what is found.
DIGITS = 4

# (number of clips, seconds of each): the shape of a batch.
Shape = tuple[int, float]


def largest_duration(config: Config, durations: np.ndarray, num_classes: int, world: World) -> float:
    """The largest `data.max_duration_s` with which training fits into memory; the same on all processes.

    Weights and random numbers of this process are left alone.

    Args:
        config: the configuration; `data.batch_size` holds as well.
        durations: (N,) seconds of each training clip, as batches are filled by them.
        num_classes: C.
        world: the processes of the run.
    """
    data, ordered = config.data, np.sort(np.asarray(durations, dtype=np.float64))
    longest = float(ordered[-1])
    per_process = math.ceil((data.samples_per_epoch or len(ordered)) / world.size)
    most = min(data.batch_size or per_process, per_process)
    budget = free_bytes(world)
    world.barrier()  # nobody takes any of it before all have looked
    found: int | None = None
    if world.device.type == "cuda" or world.local_rank == 0:  # on the host, one speaks for its neighbours
        logger.info(
            "data.max_duration_s is auto: trying batches of up to %d clips of %.4g s in %.0f MiB",
            most,
            longest,
            budget / MIB,
        )
        with closing(open_trials(config, num_classes, world, budget)) as trials:
            found = largest_fitting(
                sizes_up_to(most),
                lambda size: fits(trials.peak, worst_batches(ordered, size * longest, most), budget),
            )
    size = min(size for size in world.gather(found) if size is not None)
    if size == 0:
        raise TrainingError(
            f"data.max_duration_s: auto: not even one clip of {longest:.4g} s fits into the "
            f"{budget / MIB:.0f} MiB of memory that training may take; train on stretches of long clips with "
            "augment.crop, or take training.activation_checkpointing or a smaller encoder"
        )
    # Rounded up by less than a millisecond: the last clip must not fail by a rounding.
    limit_s = math.ceil(1000 * size * longest) / 1000
    logger.info("data.max_duration_s: %g, as much as %d clips of %.4g s", limit_s, size, longest)
    return limit_s


def free_bytes(world: World) -> int:
    """What this process may take of its device's memory."""
    if world.device.type == "cuda":
        torch.cuda.empty_cache()
        return int(GPU_SHARE * torch.cuda.mem_get_info(world.device)[0])
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    return int(HOST_SHARE * available_bytes()) // neighbours


def open_trials(config: Config, num_classes: int, world: World, budget: int) -> GpuTrials | HostTrials:
    """What tells the peak of updates on batches of some shapes, on the device of this process."""
    if world.device.type == "cuda":
        return GpuTrials(config, num_classes, world.size, world.device)
    return HostTrials(config, num_classes, world.size, budget)


def fits(peak_of: Callable[[Sequence[Shape]], float], shapes: Sequence[Shape], budget: int) -> bool:
    """Whether updates on batches of these shapes stay within the budget."""
    peak = peak_of(shapes)
    shown = " and ".join(f"{count} clips of {seconds:.4g} s" for count, seconds in shapes)
    needed = "more than there is" if math.isinf(peak) else f"{peak / MIB:.0f} MiB"
    logger.info("%s: %s", shown, needed)
    return peak <= budget


def worst_batches(durations: np.ndarray, limit_s: float, most: int) -> list[Shape]:
    """The batches that may take most memory under a limit: of the longest clips, and of the most clips.

    A batch of n clips is at least as long as the n-th shortest of all.

    Args:
        durations: (N,) seconds of all clips, in rising order.
        limit_s: most seconds of a batch, padding included.
        most: most clips of a batch.
    """
    longest = float(durations[-1])
    limit_s *= 1 + 1e-6
    of_longest = (min(most, max(1, int(limit_s / longest))), longest)
    room = np.arange(1, len(durations) + 1) * durations
    count = min(most, int(np.searchsorted(room, limit_s, side="right")))
    if count <= of_longest[0]:
        return [of_longest]
    return [of_longest, (count, float(durations[count - 1]))]


def sizes_up_to(most: int) -> list[int]:
    """Numbers from 1 on of few binary digits: 1, 2, ... 16, 18, ... 32, 36, ...; and the last, which may have
    any."""
    sizes, size = [], 1
    while size < most:
        sizes.append(size)
        size += 1 << max(0, size.bit_length() - DIGITS)
    return [*sizes, most]


def largest_fitting(sizes: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The largest of some rising sizes that fits; 0 if none does.

    They are doubled until one does not fit, then the gap is halved, so that little is tried that is much too
    large.
    """
    good, bad = -1, len(sizes)
    while bad - good > 1:
        if bad < len(sizes):
            tried = (good + bad) // 2
        else:
            tried = 0 if good < 0 else max(good + 1, bisect_right(sizes, 2 * sizes[good]) - 1)
        if fits(sizes[tried]):
            good = tried
        else:
            bad = tried
    return 0 if good < 0 else sizes[good]
