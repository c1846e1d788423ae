from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet
from manifests import check_manifest, record, write_manifest

from audiotag.data.index import IndexedManifest
from audiotag.data.indexfile import index_path_of
from audiotag.errors import DataError

RECORDS = [
    record("-abc_def-12", 1.5, "3;0;4"),
    record("__x", 10.0, ""),
    record("ünïcode é", 0.25, "7"),
    record("d" * 40, 3.0, "1;1"),
]


@pytest.fixture
def path(tmp_path):
    return write_manifest(tmp_path / "cuts_train.jsonl", RECORDS)


def test_columns_and_cuts(path):
    check_manifest(IndexedManifest(path), RECORDS)
    again = IndexedManifest(path)
    check_manifest(again, RECORDS)
    eager = list(CutSet.from_jsonl_lazy(path))
    assert [again.cut(i) for i in range(len(again))] == eager
    for index in (-1, len(again)):
        with pytest.raises(IndexError):
            again.id(index)


def test_the_second_opening_reads_the_index_only(path, monkeypatch):
    first = IndexedManifest(path)
    before = index_path_of(path).read_bytes()
    monkeypatch.setattr("audiotag.data.indexfile.build_columns", lambda *_: pytest.fail("built again"))
    check_manifest(IndexedManifest(path), RECORDS)
    assert index_path_of(path).read_bytes() == before
    # The columns lie in the mapped file, not in this process' memory.
    for columns in (first.durations, first.label_ids, first.label_starts):
        assert not columns.flags.owndata and not columns.flags.writeable


def test_several_manifests_are_one(path, tmp_path):
    more = [record("more_1", 2.0, "9"), record("more_2", 4.0, "")]
    other = write_manifest(tmp_path / "other.jsonl", more)
    empty = write_manifest(tmp_path / "empty.jsonl", [])
    check_manifest(IndexedManifest([path, empty, other, empty]), RECORDS + more)
    check_manifest(IndexedManifest(empty), [])
    with pytest.raises(DataError, match="no manifest"):
        IndexedManifest([])


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
        ('{"id": "\\ud800", "duration": 1.0}', "UnicodeEncodeError"),
        (
            '{"id": "x", "duration": 1.0, "supervisions": [{"custom": {"audio_event": "9999999999"}}]}',
            "Overflow",
        ),
        ("[" * 100_000, "RecursionError"),
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
    check_manifest(manifest, RECORDS)
    # Overwritten in place there is nothing to hold on to, but it is noticed.
    overwritten = IndexedManifest(path)
    write_manifest(path, [record("q" * 30, 2.0)] * 3)
    with pytest.raises(DataError, match="not what its index says: the manifest was changed in use") as error:
        overwritten.record(1)
    assert f"delete {index_path_of(path)}" in str(error.value)


def test_it_travels_to_other_processes(path):
    manifest = IndexedManifest(path)
    assert len(pickle.dumps(manifest)) < 500
    check_manifest(pickle.loads(pickle.dumps(manifest)), RECORDS)  # noqa: S301


ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


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
        check_manifest(IndexedManifest(path), records)
        check_manifest(IndexedManifest(path), records)
