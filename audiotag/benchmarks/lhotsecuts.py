"""lhotse's own way with the same cuts: a manifest in memory, and batches from dynamic buckets."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lhotse import CutSet
from lhotse.dataset import DynamicBucketingSampler

from audiotag.benchmarks.processes import Clock, in_fresh_process, read_memory


class Eager(NamedTuple):
    """Loading a manifest into objects."""

    seconds: float
    private_mib: float
    num_cuts: int

    @property
    def us_per_cut(self) -> float:
        return self.seconds / self.num_cuts * 1e6

    @property
    def bytes_per_cut(self) -> float:
        return self.private_mib * 2**20 / self.num_cuts


def measure_eager(path: Path) -> Eager:
    """Load a manifest into a CutSet, in a fresh process."""
    return in_fresh_process(load_eagerly, path)


def load_eagerly(path: Path) -> Eager:
    before = read_memory()
    clock = Clock()
    cuts = CutSet.from_jsonl(path)
    seconds = clock.read_s()
    return Eager(seconds, read_memory().since(before).private, len(cuts))


def measure_bucketing(path: Path, world_size: int, max_duration_s: float, num_buckets: int) -> float:
    """Clips/s that one of several ranks gets from lhotse's sampler over a lazily read manifest."""
    return in_fresh_process(sample, path, world_size, max_duration_s, num_buckets)


def sample(path: Path, world_size: int, max_duration_s: float, num_buckets: int) -> float:
    sampler = DynamicBucketingSampler(
        CutSet.from_jsonl_lazy(path),
        max_duration=max_duration_s,
        num_buckets=num_buckets,
        shuffle=True,
        drop_last=False,
        world_size=world_size,
        rank=world_size - 1,
        seed=0,
    )
    clock = Clock()
    clips = sum(len(batch) for batch in sampler)
    return clips / clock.read_s()
