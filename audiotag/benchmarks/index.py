"""Measuring the index of a manifest: making it, opening it, the memory of those who use it."""

from __future__ import annotations

import hashlib
import resource
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from audiotag.benchmarks.processes import (
    Clock,
    Memory,
    in_forked_process,
    in_fresh_process,
    in_fresh_processes,
    read_memory,
)
from audiotag.data.batching import BatchPlan
from audiotag.data.index import IndexedManifest
from audiotag.data.indexfile import index_path_of

BATCHES_COMPARED = 100
CUTS_READ = 2000
OTHER_WORLD_SIZES = (1, 3, 8)


class Build(NamedTuple):
    """Making an index."""

    seconds: float
    peak_mib: float
    size_mib: float


class Opening(NamedTuple):
    """Opening a manifest that has an index, and using its columns."""

    seconds: float
    durations: Memory
    all_columns: Memory
    worker: Memory
    record_us: float


class Resumption(NamedTuple):
    """Opening, planning and reading the first batch in the middle of an epoch."""

    seconds: float
    digest: str


def measure_build(path: Path) -> Build:
    """Make the index of a manifest anew."""
    index_path_of(path).unlink(missing_ok=True)
    return in_fresh_process(build, path)


def build(path: Path) -> Build:
    before_mib = peak_mib()
    clock = Clock()
    IndexedManifest(path)
    seconds = clock.read_s()
    return Build(seconds, peak_mib() - before_mib, index_path_of(path).stat().st_size / 2**20)


def peak_mib() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_opening(path: Path, times: int = 3) -> list[Opening]:
    """Open a manifest in fresh processes, one after the other."""
    return [in_fresh_process(open_and_use, path) for _ in range(times)]


def open_and_use(path: Path) -> Opening:
    before = read_memory()
    clock = Clock()
    manifest = IndexedManifest(path)
    seconds = clock.read_s()
    manifest.durations.sum()
    durations = read_memory().since(before)
    touch_all(manifest)
    all_columns = read_memory().since(before)
    worker = in_forked_process(touch_in_worker, manifest)
    places = np.random.default_rng(0).integers(len(manifest), size=min(CUTS_READ, len(manifest)))
    clock = Clock()
    for place in places:
        manifest.record(int(place))
    return Opening(seconds, durations, all_columns, worker, clock.read_s() / len(places) * 1e6)


def touch_all(manifest: IndexedManifest) -> None:
    """Use the columns from end to end."""
    manifest.durations.sum()
    manifest.label_ids.sum()
    manifest.label_starts.sum()
    manifest.ids().view(np.uint8).max()


def touch_in_worker(manifest: IndexedManifest) -> Memory:
    """What a loader worker adds to the memory when it looks up clips all over the manifest."""
    before = read_memory()
    for place in np.linspace(0, len(manifest) - 1, CUTS_READ, dtype=np.int64):
        manifest.record(int(place))
        manifest.labels(int(place))
    manifest.durations.sum()
    return read_memory().since(before)


def measure_sharing(path: Path, processes: int) -> list[Memory]:
    """The memory that each of several processes needs which have the manifest open at the same time."""
    return in_fresh_processes(processes, open_together, path)


def open_together(barrier: Any, path: Path) -> Memory:
    before = read_memory()
    manifest = IndexedManifest(path)
    touch_all(manifest)
    barrier.wait()
    memory = read_memory().since(before)
    # Nobody leaves before all have read theirs: pages are shared while others have them.
    barrier.wait()
    return memory


def measure_resumption(path: Path, options: dict[str, Any], world_size: int) -> tuple[Resumption, bool, bool]:
    """Resume in the middle of an epoch.

    Returns what a fresh process needed, whether its next batches are those of an uninterrupted one, and
    whether other numbers of ranks get the rest of the epoch, each clip once.
    """
    half = in_fresh_process(rounds_of_half_an_epoch, path, options, world_size)
    resumed = in_fresh_process(resume, path, options, world_size, half)
    uninterrupted = in_fresh_process(digest_of_part, path, options, world_size, half)
    complete = in_fresh_process(rest_is_complete, path, options, world_size, half)
    return resumed, resumed.digest == uninterrupted, complete


def rounds_of_half_an_epoch(path: Path, options: dict[str, Any], world_size: int) -> int:
    plan = BatchPlan(IndexedManifest(path).durations, world_size=world_size, **options)
    return plan.num_batches(1) // 2


def resume(path: Path, options: dict[str, Any], world_size: int, rounds: int) -> Resumption:
    clock = Clock()
    manifest = IndexedManifest(path)
    plan = BatchPlan(manifest.durations, world_size=world_size, rank=world_size - 1, **options)
    batches = plan.batches(1, first=rounds * world_size)
    for position in batches[0]:
        manifest.record(int(position))
    return Resumption(clock.read_s(), digest_of(manifest, batches[:BATCHES_COMPARED]))


def digest_of_part(path: Path, options: dict[str, Any], world_size: int, rounds: int) -> str:
    manifest = IndexedManifest(path)
    plan = BatchPlan(manifest.durations, world_size=world_size, rank=world_size - 1, **options)
    return digest_of(manifest, plan.batches(1)[rounds : rounds + BATCHES_COMPARED])


def digest_of(manifest: IndexedManifest, batches: list[np.ndarray]) -> str:
    """A hash of the ids in the batches."""
    ids = [[manifest.record(int(position))["id"] for position in batch] for batch in batches]
    return hashlib.sha256(repr(ids).encode()).hexdigest()


def rest_is_complete(path: Path, options: dict[str, Any], world_size: int, rounds: int) -> bool:
    durations = IndexedManifest(path).durations
    first = rounds * world_size
    rest = np.concatenate(BatchPlan(durations, **options).batches(1)[first:])
    for other in OTHER_WORLD_SIZES:
        plans = (BatchPlan(durations, world_size=other, rank=rank, **options) for rank in range(other))
        dealt = np.concatenate([batch for plan in plans for batch in plan.batches(1, first=first)])
        if not np.array_equal(np.sort(dealt), np.sort(rest)):
            return False
    return True
