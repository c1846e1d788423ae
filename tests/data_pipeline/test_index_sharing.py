"""One index for many processes: made by one of them, mapped by all."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from manifests import check_manifest, record, write_manifest

from audiotag.data.index import IndexedManifest
from audiotag.data.indexfile import index_path_of

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [record(f"clip_{number:06d}", 1 + number % 7, f"{number % 5};9") for number in range(20_000)]
OPEN = (
    "import logging, sys; from audiotag.data.index import IndexedManifest;"
    "logging.basicConfig(level=logging.INFO, format='%(message)s');"
    "print(len(IndexedManifest(sys.argv[1])))"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_manifest(tmp_path_factory.mktemp("sharing") / "cuts.jsonl", RECORDS)


def start_opening(path: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", OPEN, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_many_processes_one_makes_the_index(path):
    index_path_of(path).unlink(missing_ok=True)
    outputs = [process.communicate() for process in [start_opening(path) for _ in range(4)]]
    assert [output for output, _ in outputs] == [f"{len(RECORDS)}\n"] * 4
    assert sum(errors.count("indexing ") for _, errors in outputs) == 1
    assert sorted(p.name for p in path.parent.iterdir()) == ["cuts.jsonl", "cuts.jsonl.idx"]


def test_a_process_waits_for_the_one_that_makes_the_index(path):
    index_path_of(path).unlink(missing_ok=True)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = start_opening(path)
        assert "another process makes the index" in process.stderr.readline()
        time.sleep(0.1)
        assert process.poll() is None and not index_path_of(path).exists()
    # Whoever held the lock ended without an index: the next one makes it.
    output, errors = process.communicate()
    assert output == f"{len(RECORDS)}\n" and "indexing" in errors


def test_without_locks_each_works_on_its_own(path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    index_path_of(path).unlink(missing_ok=True)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert len(IndexedManifest(path)) == len(RECORDS)
    assert index_path_of(path).exists()


def memory_of_mapping(name: str) -> dict[str, int]:
    """KiB by kind that this process holds of a mapped file."""
    text = Path("/proc/self/smaps").read_text()
    entry = re.search(rf"^.*{re.escape(name)}\n((?:[A-Z]\w+:.*\n)+)", text, re.MULTILINE).group(1)
    return {key: int(value) for key, value in re.findall(r"^(\w+): +(\d+) kB", entry, re.MULTILINE)}


def use_all(manifest: IndexedManifest, queue: multiprocessing.SimpleQueue) -> None:
    totals = [manifest.durations.sum(), manifest.label_ids.sum(), manifest.label_starts.sum()]
    totals.append(manifest.ids().view(np.uint8).sum())
    queue.put(([float(total) for total in totals], memory_of_mapping("cuts.jsonl.idx")))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux' /proc")
def test_a_worker_reads_the_same_memory_and_copies_none(path):
    IndexedManifest(path)
    manifest = IndexedManifest(path)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    use_all(manifest, queue)
    totals, _ = queue.get()
    process = context.Process(target=use_all, args=(manifest, queue))
    process.start()
    worker_totals, memory = queue.get()
    process.join()
    assert worker_totals == totals
    # The columns are in use and none of their pages is the worker's own.
    assert memory["Rss"] > 0.7 * index_path_of(path).stat().st_size / 1024
    assert memory["Private_Dirty"] == memory["Private_Clean"] == 0


def test_columns_are_mapped_and_not_copied(path):
    manifest = IndexedManifest(path)
    for column in (manifest.durations, manifest.label_ids, manifest.label_starts, manifest.ids()):
        assert not column.flags.owndata and not column.flags.writeable


def test_several_manifests_hold_on_to_durations_only(path, tmp_path):
    other = write_manifest(tmp_path / "other.jsonl", [record("long id of the other", 3.0, "4")])
    manifest = IndexedManifest([path, other])
    assert manifest.durations is manifest.durations
    for name in ("label_ids", "label_starts"):
        assert getattr(manifest, name) is not getattr(manifest, name)
    few = [17, 19_999]
    check_manifest(IndexedManifest(other), [record("long id of the other", 3.0, "4")])
    assert [manifest.record(place)["id"] for place in few] == [RECORDS[place]["id"] for place in few]
    assert manifest.ids()[-1] == b"long id of the other" and len(manifest.ids()) == len(manifest)
