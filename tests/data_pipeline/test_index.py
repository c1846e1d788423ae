from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet
from manifests import record, write_manifest

from audiotag.data.index import IndexedManifest
from audiotag.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [
    record("-abc_def-12", 1.5, "3;0;4"),
    record("__x", 10.0, ""),
    record("ünïcode é", 0.25, "7"),
    record("d" * 40, 3.0, "1;1"),
]


@pytest.fixture
def path(tmp_path):
    return write_manifest(tmp_path / "cuts_train.jsonl", RECORDS)


def index_of(path):
    return path.with_name(path.name + ".idx")


def check(manifest, records):
    assert len(manifest) == len(records)
    assert [manifest.id(i) for i in range(len(manifest))] == [cut["id"] for cut in records]
    assert [cut_id.decode() for cut_id in manifest.ids()] == [cut["id"] for cut in records]
    np.testing.assert_allclose(manifest.durations, [cut["duration"] for cut in records], rtol=1e-6)
    for i, cut in enumerate(records):
        events = cut["supervisions"][0]["custom"]["audio_event"]
        expected = [int(label) for label in events.split(";")] if events else []
        assert manifest.labels(i).tolist() == expected
        assert (
            manifest.label_ids[manifest.label_starts[i] : manifest.label_starts[i + 1]].tolist() == expected
        )
        assert manifest.record(i) == cut


def test_columns_and_cuts(path):
    check(IndexedManifest(path), RECORDS)
    again = IndexedManifest(path)
    check(again, RECORDS)
    eager = list(CutSet.from_jsonl_lazy(path))
    assert [again.cut(i) for i in range(len(again))] == eager
    for index in (-1, len(again)):
        with pytest.raises(IndexError):
            again.id(index)


def test_the_second_opening_reads_the_index_only(path, monkeypatch):
    first = IndexedManifest(path)
    before = index_of(path).read_bytes()
    monkeypatch.setattr("audiotag.data.indexfile.build_columns", lambda *_: pytest.fail("built again"))
    check(IndexedManifest(path), RECORDS)
    assert index_of(path).read_bytes() == before
    # The columns lie in the mapped file, not in this process' memory.
    for columns in (first.durations, first.label_ids, first.label_starts):
        assert not columns.flags.owndata and not columns.flags.writeable


def test_several_manifests_are_one(path, tmp_path):
    more = [record("more_1", 2.0, "9"), record("more_2", 4.0, "")]
    other = write_manifest(tmp_path / "other.jsonl", more)
    empty = write_manifest(tmp_path / "empty.jsonl", [])
    check(IndexedManifest([path, empty, other, empty]), RECORDS + more)
    check(IndexedManifest(empty), [])
    with pytest.raises(DataError, match="no manifest"):
        IndexedManifest([])


def test_a_changed_manifest_is_noticed(path):
    IndexedManifest(path)
    times = path.stat()
    write_manifest(path, RECORDS[::-1])
    check(IndexedManifest(path), RECORDS[::-1])
    # Same size and same time: only the content tells.
    write_manifest(path, RECORDS)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    check(IndexedManifest(path), RECORDS)
    with path.open("a") as file:
        file.write("\n" + json.dumps(record("new")) + "\n\n")
    check(IndexedManifest(path), [*RECORDS, record("new")])


def damage_cut(content):
    return content[: len(content) // 2]


def damage_flip(content):
    return content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]


@pytest.mark.parametrize(
    "damage",
    [
        damage_cut,
        damage_flip,
        lambda _: b"",
        lambda _: b"something else\n",
        lambda _: b'{"format": "audiotag index 1"}\n',
        lambda _: b"[1, 2]\n",
        lambda content: content.replace(b"index 1", b"index 0"),
        lambda content: content + b"more",
        lambda _: bytes(1 << 17),
    ],
)
def test_a_damaged_or_foreign_index_is_made_anew(path, damage, caplog):
    IndexedManifest(path)
    good = index_of(path).read_bytes()
    index_of(path).write_bytes(damage(good))
    with caplog.at_level(logging.WARNING):
        check(IndexedManifest(path), RECORDS)
    assert "cuts_train.jsonl.idx is damaged or not an index" in caplog.text
    assert index_of(path).read_bytes() == good


def test_the_index_of_another_manifest_is_not_believed(path, tmp_path):
    other = write_manifest(tmp_path / "other.jsonl", RECORDS[:2])
    IndexedManifest(other)
    index_of(other).rename(index_of(path))
    check(IndexedManifest(path), RECORDS)


def test_where_no_index_can_be_written_it_stays_in_memory(tmp_path, caplog):
    """A name with no room for four more letters stands for a read-only folder, which root can write to."""
    path = write_manifest(tmp_path / f"{'c' * 246}.jsonl", RECORDS)
    with caplog.at_level(logging.WARNING):
        check(IndexedManifest(path), RECORDS)
    assert "the index stays in memory" in caplog.text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "x", "duration": 1.0', "JSONDecodeError"),
        ("[1]", "not a JSON object"),
        ('{"duration": 1.0}', "KeyError: 'id'"),
        ('{"id": "x", "duration": "long"}', "duration 'long'"),
        ('{"id": "x", "duration": 0}', "duration 0"),
        ('{"id": "x", "duration": NaN}', "duration nan"),
        ('{"id": 5, "duration": 1.0}', "id 5 is not a string"),
        ('{"id": "x", "duration": 1.0, "supervisions": [{"custom": {"audio_event": "1;two"}}]}', "two"),
        (
            '{"id": "x", "duration": 1.0, "supervisions": [{"custom": {"audio_event": "-1"}}]}',
            "audio_event '-1'",
        ),
        ('{"id": "x", "duration": 1.0, "supervisions": [3]}', "AttributeError"),
        ("\xff\xfe", "UnicodeDecodeError"),
    ],
)
def test_a_damaged_line_is_named(path, line, reason):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line.encode("latin-1") + b"\n", *lines[2:]]))
    with pytest.raises(DataError) as error:
        IndexedManifest(path)
    assert str(error.value).startswith(f"{path}, line 3: not a cut") and reason in str(error.value)


def test_an_id_that_comes_twice_is_named(path):
    with path.open("a") as file:
        file.write(json.dumps(RECORDS[1]) + "\n")
    with pytest.raises(DataError, match="line 5: cut id __x is already in line 2"):
        IndexedManifest(path)


def test_what_is_no_manifest(tmp_path):
    with pytest.raises(DataError, match=r"manifest not found: .*absent\.jsonl"):
        IndexedManifest(tmp_path / "absent.jsonl")
    (tmp_path / "cuts.jsonl.gz").touch()
    with pytest.raises(DataError, match="gunzip"):
        IndexedManifest(tmp_path / "cuts.jsonl.gz")


def test_a_manifest_replaced_while_in_use_does_not_mix(path):
    manifest = IndexedManifest(path)
    write_manifest(path.with_name("new.jsonl"), RECORDS[::-1]).replace(path)
    check(manifest, RECORDS)
    # Overwritten in place there is nothing to hold on to, but it is noticed.
    overwritten = IndexedManifest(path)
    write_manifest(path, [record("q" * 30, 2.0)] * 3)
    with pytest.raises(DataError, match="the manifest was changed while in use"):
        overwritten.record(1)


def test_it_travels_to_other_processes(path):
    manifest = IndexedManifest(path)
    assert len(pickle.dumps(manifest)) < 500
    check(pickle.loads(pickle.dumps(manifest)), RECORDS)  # noqa: S301


def test_many_processes_may_open_it_at_once(path):
    code = f"from audiotag.data.index import IndexedManifest; print(len(IndexedManifest({str(path)!r})))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
        for _ in range(4)
    ]
    assert [process.communicate()[0] for process in processes] == [b"4\n"] * 4
    assert sorted(p.name for p in path.parent.iterdir()) == ["cuts_train.jsonl", "cuts_train.jsonl.idx"]


ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(ids, st.floats(0.01, 1e5), st.lists(st.integers(0, 5000), max_size=5)),
        max_size=20,
        unique_by=lambda cut: cut[0],
    )
)
def test_any_cuts_are_read_back(tmp_path_factory, cuts):
    records = [record(cut_id, duration, ";".join(map(str, labels))) for cut_id, duration, labels in cuts]
    path = write_manifest(tmp_path_factory.mktemp("any") / "cuts.jsonl", records)
    if not any(cut_id.endswith("\0") for cut_id, *_ in cuts):  # numpy's fixed-width bytes drop these
        check(IndexedManifest(path), records)
        check(IndexedManifest(path), records)


def test_large_manifests_are_told_apart_by_samples_of_their_bytes(tmp_path):
    """Above 1 MiB only blocks of the file are summed up; the first and the last byte belong to them."""
    records = [record(f"clip{number:06d}") for number in range(3000)]
    path = write_manifest(tmp_path / "cuts.jsonl", records)
    assert path.stat().st_size > 1 << 20
    IndexedManifest(path)
    times = path.stat()
    for number in (0, 2999):
        records[number]["id"] = f"CLIP{number:06d}"
        write_manifest(path, records)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert IndexedManifest(path).id(number) == f"CLIP{number:06d}"
