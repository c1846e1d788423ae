"""Probe many files side by side, and keep the results so that an interrupted run continues."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from audiotag.corpora.arraytask import ArrayTask
from audiotag.corpora.journal import journal_line, open_journal, read_journal
from audiotag.corpora.matrices import Matrix, probe_matrix
from audiotag.corpora.parallel import parallel_map
from audiotag.corpora.probe import Probe, probe_file, probe_part
from audiotag.corpora.versions import PROBE_VERSION
from audiotag.errors import StorageError
from audiotag.logs import progress

# A part of a file: path, start and length in seconds.
PartOfFile = tuple[str, float, float]
Stamp = tuple[int, int]

# On a network disk it is waiting that takes the time.
STAMP_THREADS = 16
STAMP_CHUNK = 2048


def probe_files(
    paths: Sequence[str], *, cache: Path, num_jobs: int = 1, task: ArrayTask | None = None
) -> dict[str, Probe]:
    """Probe whole files in parallel.

    Args:
        paths: the files.
        cache: file of earlier results, extended as results arrive; a file that has the same size and time
            as then is not decoded again.
        num_jobs: processes.
        task: only probe the share of this task of a job array; what it finds goes to a file of its own
            beside the cache, which the next call without a task takes up.
    """
    return probe_all(paths, cache, num_jobs, "opening audio", "files", task)


def probe_parts(parts: Sequence[PartOfFile], *, cache: Path, num_jobs: int = 1) -> dict[PartOfFile, Probe]:
    """The same for parts of files that are good as a whole."""
    return probe_all(parts, cache, num_jobs, "measuring parts of files", "parts")


def probe_matrices(
    matrices: Sequence[Matrix], *, cache: Path, num_jobs: int = 1, task: ArrayTask | None = None
) -> dict[Matrix, Probe]:
    """The same for stored features."""
    return probe_all(matrices, cache, num_jobs, "reading features", "clips", task)


def probe_all(
    tasks: Sequence[str] | Sequence[PartOfFile] | Sequence[Matrix],
    cache: Path,
    num_jobs: int,
    what: str,
    unit: str,
    array_task: ArrayTask | None = None,
) -> dict:
    """Probes by task, from the cache or made anew."""
    if array_task is not None:
        tasks = array_task.share(tasks)
    stamps = stamps_of(path_of(task) for task in tasks)
    try:
        if array_task is None:
            take_up_parts(cache)
        results = read_cache(cache, set(tasks), stamps)
        if array_task is not None:
            cache = part_of_cache(cache, array_task)
            results |= read_cache(cache, set(tasks) - results.keys(), stamps)
        file = open_journal(cache)
    except OSError as error:
        raise StorageError(f"{cache} cannot be read and written ({error.strerror}): remove it") from None
    pending = [task for task in dict.fromkeys(tasks) if task not in results]
    with file:
        probes = parallel_map(probe_task, pending, num_jobs, chunk_size=32)
        probes = progress(probes, len(pending), what, unit=unit)
        for count, (task, probe) in enumerate(zip(pending, probes, strict=True), start=1):
            results[task] = probe
            file.write(journal_line([PROBE_VERSION, task, *stamps[path_of(task)], *probe]))
            if count % 500 == 0:
                file.flush()
    return results


def part_of_cache(cache: Path, task: ArrayTask) -> Path:
    """Where a task of a job array keeps its results: two machines must not write to one file."""
    return cache.with_name(f"{cache.stem}.part{task.number}-of-{task.count}{cache.suffix}")


def take_up_parts(cache: Path) -> None:
    """Append the results of all tasks of job arrays to the cache."""
    for part in sorted(cache.parent.glob(f"{cache.stem}.part*{cache.suffix}")):
        with open_journal(cache) as file:
            # Through the journal, so that a line that a killed task has left half is left out.
            file.writelines(journal_line(values) for values in read_journal(part))
        part.unlink()


def probe_task(task: str | PartOfFile | Matrix) -> Probe:
    """Probe a file, a part of one, or stored features."""
    if isinstance(task, Matrix):
        return probe_matrix(task)
    return probe_file(task) if isinstance(task, str) else probe_part(*task)


def path_of(task: str | PartOfFile | Matrix) -> str:
    """The file of a task."""
    return task if isinstance(task, str) else task[0]


def stamps_of(paths: Iterable[str]) -> dict[str, Stamp]:
    """Size and modification time of each file, by which a changed one is noticed."""
    distinct = list(dict.fromkeys(paths))
    chunks = [distinct[start : start + STAMP_CHUNK] for start in range(0, len(distinct), STAMP_CHUNK)]
    with ThreadPoolExecutor(STAMP_THREADS) as threads:
        stamps = chain.from_iterable(threads.map(stamps_of_chunk, chunks))
        return dict(zip(distinct, stamps, strict=True))


def stamps_of_chunk(paths: list[str]) -> list[Stamp]:
    """The stamps of some files; one that is gone has none, and opening it will say so."""
    stamps = []
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 (a Path for each of millions takes longer)
        except (OSError, ValueError):
            stamps.append((0, 0))
        else:
            stamps.append((status.st_size, status.st_mtime_ns))
    return stamps


def read_cache(cache: Path, wanted: set, stamps: dict[str, Stamp]) -> dict:
    """Earlier results that still hold, by task."""
    known = {}
    for version, *fields in read_journal(cache) if wanted else ():
        if version != PROBE_VERSION:
            continue
        task, size, time_ns, *probe = fields
        task = task if isinstance(task, str) else tuple(task)
        if task not in wanted:
            continue
        if stamps[path_of(task)] == (size, time_ns):
            known[task] = Probe(*probe)
        else:
            known.pop(task, None)
    return known
