"""An index that is damaged, of another manifest or of another state of it is noticed and made anew."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import check_manifest, record, write_manifest

from audiotag.data import indexfile
from audiotag.data.index import IndexedManifest
from audiotag.data.indexfile import fingerprint, index_path_of, read_index
from audiotag.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [record("-abc_def-12", 1.5, "3;0;4"), record("__x", 10.0, ""), record("ünïcode é", 0.25, "7")]
RECORDS[1]["supervisions"][0]["custom"]["unlabelled"] = "5;2"
MANY = [record(f"clip{number:06d}", labels="17") for number in range(3000)]


@pytest.fixture
def path(tmp_path):
    return write_manifest(tmp_path / "cuts_train.jsonl", RECORDS)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """A manifest, the bytes of its index, and a function that says whether other bytes are taken for it."""
    path = write_manifest(tmp_path_factory.mktemp("damage") / "cuts.jsonl", RECORDS)
    IndexedManifest(path)
    good = index_path_of(path).read_bytes()
    with path.open("rb") as file:
        look = fingerprint(file.fileno())

    def believed(content: bytes) -> bool:
        index_path_of(path).write_bytes(content)
        return read_index(index_path_of(path), look) is not None

    assert believed(good)
    return good, believed


def same_times(path: Path, status: os.stat_result) -> None:
    """Give a file the times of another, or of itself before it was written to."""
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_every_byte_that_changes_is_noticed(indexed):
    good, believed = indexed
    for place in range(len(good)):
        for change in (0x01, 0xFF):
            content = bytearray(good)
            content[place] ^= change
            assert not believed(bytes(content)), (place, change)


def test_every_truncation_and_lengthening_is_noticed(indexed):
    good, believed = indexed
    for length in range(len(good)):
        assert not believed(good[:length]), length
    assert not believed(good + b"\0") and not believed(good + good)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(place=st.floats(0, 1), piece=st.binary(min_size=1, max_size=40))
def test_every_overwritten_stretch_is_noticed(indexed, place, piece):
    good, believed = indexed
    start = int(place * (len(good) - len(piece)))
    content = good[:start] + piece + good[start + len(piece) :]
    assert believed(content) == (content == good)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"something else\n",
        b'{"format": "audiotag index 4"}\n',
        b'{"format": "audiotag index 3"}\n',
        b'{"format": "audiotag index 3", "num_bytes": "x"}\n',
        b'{"format": "audiotag index 3", "num_bytes": -4}\n',
        b"[1, 2]\n",
        b"[" * (1 << 16),
        bytes(1 << 17),
    ],
)
def test_what_is_no_index_is_replaced(path, content, caplog):
    IndexedManifest(path)
    good = index_path_of(path).read_bytes()
    index_path_of(path).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        check_manifest(IndexedManifest(path), RECORDS)
    assert "cuts_train.jsonl.idx is damaged or not an index" in caplog.text
    assert index_path_of(path).read_bytes() == good


def test_a_changed_manifest_is_noticed(path):
    IndexedManifest(path)
    times = path.stat()
    write_manifest(path, RECORDS[::-1])
    check_manifest(IndexedManifest(path), RECORDS[::-1])
    # Same size and same time: only the content tells.
    write_manifest(path, RECORDS)
    same_times(path, times)
    check_manifest(IndexedManifest(path), RECORDS)
    with path.open("a") as file:
        file.write("\n" + json.dumps(record("new")) + "\n\n")
    check_manifest(IndexedManifest(path), [*RECORDS, record("new")])


def test_the_index_of_another_manifest_is_not_believed(path, tmp_path):
    """Neither that of a shorter one nor that of one of the same size and time."""
    for others in (RECORDS[:2], RECORDS[::-1]):
        other = write_manifest(tmp_path / "other.jsonl", others)
        same_times(other, path.stat())
        IndexedManifest(other)
        index_path_of(other).rename(index_path_of(path))
        check_manifest(IndexedManifest(path), RECORDS)


def test_a_manifest_moves_with_its_index(path, tmp_path, monkeypatch):
    IndexedManifest(path)
    moved = tmp_path / "elsewhere" / "cuts_valid.jsonl"
    moved.parent.mkdir()
    index_path_of(path).rename(index_path_of(moved))
    path.rename(moved)
    monkeypatch.setattr(indexfile, "build_columns", lambda *_: pytest.fail("built again"))
    check_manifest(IndexedManifest(moved), RECORDS)


def test_large_manifests_are_told_apart_by_samples_of_their_bytes(tmp_path):
    """Above 1 MiB only blocks of the file are summed up; the first and the last byte belong to them."""
    records = [dict(cut) for cut in MANY]
    path = write_manifest(tmp_path / "cuts.jsonl", records)
    assert path.stat().st_size > 1 << 20
    IndexedManifest(path)
    times = path.stat()
    for number in (0, len(MANY) - 1):
        records[number]["id"] = f"CLIP{number:06d}"
        write_manifest(path, records)
        same_times(path, times)
        assert IndexedManifest(path).id(number) == f"CLIP{number:06d}"


@pytest.mark.parametrize(
    ("before", "after"),
    [('"id": "clip0', '"id": "CLIP0'), ('"17"', '"42"'), ('"duration": 1.0', '"duration": 2.0')],
)
def test_what_the_samples_miss_is_noticed_when_the_cut_is_read(tmp_path, before, after):
    """One line of a large manifest changes between the blocks, its size and time do not."""
    path = write_manifest(tmp_path / "cuts.jsonl", MANY)
    manifest = IndexedManifest(path)
    times, content = path.stat(), path.read_bytes()
    # A line behind the first block.
    number = indexfile.SAMPLE_BYTES // len(json.dumps(MANY[0])) + 5
    line = json.dumps(manifest.record(number))
    start = content.index(line.encode())
    changed = line.replace(before, after, 1).encode()
    path.write_bytes(content[:start] + changed + content[start + len(changed) :])
    same_times(path, times)
    stale = IndexedManifest(path)
    assert stale.record(number - 1) == MANY[number - 1]
    with pytest.raises(DataError, match=r"cut clip\d+ is not what its index says: .* delete .*\.idx and run"):
        stale.record(number)
    # The time as it is tells at once.
    os.utime(path)
    assert IndexedManifest(path).record(number) == json.loads(changed)


def test_where_no_index_can_be_written_it_stays_in_memory(tmp_path, caplog):
    """A name with no room for four more letters stands for a read-only folder, which root can write to."""
    path = write_manifest(tmp_path / f"{'c' * 246}.jsonl", RECORDS)
    with caplog.at_level(logging.WARNING):
        check_manifest(IndexedManifest(path), RECORDS)
    assert "the index stays in memory" in caplog.text
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_index_in_memory_and_nothing_behind(tmp_path):
    """A limit on the size of files stands for the disk."""
    path = write_manifest(tmp_path / "cuts.jsonl", MANY)
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from audiotag.data.index import IndexedManifest;"
        f"print(IndexedManifest({str(path)!r}).record(2999)['id'])"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "clip002999\n" and "the index stays in memory" in done.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_a_manifest_that_changes_while_it_is_read_gets_no_index(path, monkeypatch):
    build = indexfile.build_columns

    def build_while_it_grows(*arguments):
        columns = build(*arguments)
        with path.open("a") as file:
            file.write(json.dumps(record("late")) + "\n")
        return columns

    monkeypatch.setattr(indexfile, "build_columns", build_while_it_grows)
    with pytest.raises(DataError, match="was changed while it was read"):
        IndexedManifest(path)
    assert not index_path_of(path).exists()
