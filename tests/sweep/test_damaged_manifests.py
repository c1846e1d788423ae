"""Damaged manifests: the cuts as their lines have them, or an error that names the file.

What comes out of the columns is compared with what Python's own JSON reader makes of the lines.
"""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.data.index import IndexedManifest
from tests.sweep import damage
from tests.sweep.cuts import GOOD, IDS, LINES, columns, cut
from tests.sweep.reading import Refusal, read


def expected(content: bytes) -> list[tuple]:
    """Id, duration, labels, record and unlabelled classes of each line, as any JSON reader has them."""
    rows = []
    for line in content.split(b"\n"):
        if line.strip():
            record = json.loads(line)
            supervisions = record.get("supervisions") or [{}]
            custom = supervisions[0].get("custom") or {}
            fields = (custom.get(name) or "" for name in ("audio_event", "unlabelled"))
            labels, unlabelled = ([int(i) for i in field.split(";")] if field else [] for field in fields)
            rows.append((record["id"], record["duration"], labels, record, unlabelled))
    return rows


def check(path: Path, content: bytes) -> str:
    """Why a manifest of these bytes breaks the promise; "" when it keeps it, opened twice."""
    path.write_bytes(content)
    path.with_name(path.name + ".idx").unlink(missing_ok=True)
    try:
        first = read(lambda: columns(path), path)
        again = read(lambda: columns(path), path)
        if isinstance(first, Refusal):
            return "" if first == again else f"first {first}, then {again}"
        if repr(first) != repr(again):
            return f"first {first}, then {again}"
        wanted = expected(content)
        if len(wanted) != len(first):
            return f"{len(wanted)} cuts are there, {len(first)} come out"
        for want, got in zip(wanted, first, strict=True):
            same = (want[0], want[2], repr(want[3]), want[4]) == (got[0], got[2], repr(got[3]), got[4])
            if not (same and math.isclose(want[1], got[1], rel_tol=1e-6)):
                return f"{want[:3]} is there, {got[:3]} comes out"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cuts_train.jsonl"


def test_the_good_manifest(path):
    assert not check(path, GOOD)
    assert [row[0] for row in columns(path)] == list(IDS)


WHOLE = {
    "empty": b"",
    "newlines": b"\n\n\n",
    "blank lines": GOOD.replace(b"\n", b"\n\n"),
    "lines of spaces": GOOD.replace(b"\n", b"\n  \t\n"),
    "CRLF": GOOD.replace(b"\n", b"\r\n"),
    "no newline at the end": GOOD[:-1],
    "spaces at the start": b"  " + GOOD,
    "one cut": LINES[0],
    "BOM": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "Latin-1": json.dumps(cut(2), ensure_ascii=False).encode("latin-1"),
    "not escaped": json.dumps(cut(2), ensure_ascii=False).encode(),
    "gzip": gzip.compress(GOOD),
    "zeros": bytes(1000),
    "zeros behind": GOOD + bytes(1000),
    "zeros between": LINES[0] + b"\n" + bytes(512) + b"\n" + LINES[1],
    "noise": damage.noise(1000),
    "noise behind": GOOD + damage.noise(100),
    "HTML": b"<!DOCTYPE html>\n",
    "a list": b"[" + b",".join(LINES) + b"]",
    "pretty": json.dumps(cut(0), indent=1).encode(),
    "twice": GOOD + GOOD,
    "the first line again": GOOD + LINES[0],
    "two cuts in a line": LINES[0] + LINES[1],
    "two cuts with a comma": LINES[0] + b"," + LINES[1],
    "a number": b"1\n",
    "null": b"null\n",
    "an empty object": b"{}\n",
    "brackets": b"[" * 100_000 + b"\n",
    "nested": b'{"id": "x", "duration": 1.0, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "a long line": json.dumps(cut(0, text="x" * 2_000_000)).encode(),
    "CR only": GOOD.replace(b"\n", b"\r"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_damage_to_the_whole(path, name):
    assert not check(path, WHOLE[name])


OF_IDS = 'null 5 true ["x"] "" "a\\u0000" "\\u0000" "\\ud800" "a\\nb"'
OF_DURATIONS = (
    '"1.0" null true false NaN Infinity -Infinity -1 0 -0.0 1e-50 1e-320 1e39 1e400 1e38 0.1 [1.0] {} ""'
)
OF_SUPERVISIONS = 'null [] {} "" [null] [3] "x" [[]] [{}] 5 true'
OF_CUSTOM = 'null {} "x" 5'
OF_LABELS = (
    '"1;;2" ";" "1;" ";1" "x" "1;two" "-1" "1;-2" "1.0" "1,2" "0x1" "nan" "1_0" "\uff11" "+1" "1\\n" '
    '"99999999999" "2147483648" "2147483647" null 0 1 [] [1] {} false true 0.5'
)
RAW = {
    "id": [*OF_IDS.split(), '" "', f'"{"x" * 100_000}"'],
    "duration": [*OF_DURATIONS.split(), "1" + "0" * 400],
    "supervisions": [
        *OF_SUPERVISIONS.split(),
        *(f'[{{"custom": {custom}}}]' for custom in OF_CUSTOM.split()),
    ],
}
EVENTS = [*OF_LABELS.split(), '"1 2"', '" "', '" 1"', f'"{"9" * 5000}"']


def with_value(key: str, value: str) -> bytes:
    """The manifest with another raw value in its second cut."""
    whole = json.dumps({**cut(1), key: "VALUE"}).replace('"VALUE"', value)
    return b"\n".join([LINES[0], whole.encode(), LINES[2]]) + b"\n"


def with_event(value: str, field: str) -> bytes:
    """The manifest with other labels, or unlabelled classes, in its second cut."""
    changed = cut(1)
    changed["supervisions"][0]["custom"][field] = "VALUE"
    return b"\n".join([LINES[0], json.dumps(changed).replace('"VALUE"', value).encode(), LINES[2]]) + b"\n"


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in RAW.items() for value in values],
    ids=lambda text: text[:30],
)
def test_values_of_other_kinds(path, key, value):
    assert not check(path, with_value(key, value))


@pytest.mark.parametrize(("field", "place"), [("audio_event", 2), ("unlabelled", 4)])
@pytest.mark.parametrize("value", EVENTS, ids=lambda text: text[:30])
def test_labels_of_other_kinds(path, value, field, place):
    """Labels that cannot be read are never taken for a clip without labels, or for other ones."""
    assert not check(path, with_event(value, field))
    rows = read(lambda: columns(path), path)
    if not isinstance(rows, Refusal):
        labels = json.loads(value)
        assert labels is None or (isinstance(labels, str) and ";".join(map(str, rows[1][place])) == labels)


@pytest.mark.parametrize("key", ["id", "duration"])
def test_a_missing_key_is_refused(path, key):
    path.write_bytes(LINES[0] + b"\n" + json.dumps({k: v for k, v in cut(1).items() if k != key}).encode())
    message = read(lambda: columns(path), path)
    assert isinstance(message, Refusal) and "line 2" in message


@pytest.mark.parametrize("key", ["duration", "supervisions", "recording"])
def test_a_key_that_comes_twice(path, key):
    """The last one counts, for the columns as for the record."""
    line = LINES[0][:-1] + f', "{key}": {json.dumps(cut(3)[key])}}}'.encode()
    assert not check(path, line)


def test_cut_off_anywhere(path):
    """What is left are whole cuts, or it is an error: a manifest is written whole or not at all."""
    failures = []
    for length in range(0, len(GOOD), 3):
        why = check(path, GOOD[:length])
        if why:
            failures.append(f"cut to {length} bytes: {why}")
    assert not failures, "\n".join(failures[:10])


def test_any_byte_changed(path):
    failures = []
    for place in range(len(LINES[0]) + 200):
        why = check(path, damage.with_bit(place, place % 8)(GOOD))
        if why:
            failures.append(f"byte {place}: {why}")
    assert not failures, "\n".join(failures[:10])


def test_what_is_no_file(tmp_path):
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("gone.jsonl", "folder.jsonl", "loop.jsonl", "x/y.jsonl", "n" * 300 + ".jsonl"):
        path = tmp_path / name
        assert isinstance(read(lambda path=path: IndexedManifest(path), path), Refusal), name


@settings(max_examples=150, deadline=None, derandomize=True)
@given(damage.any_changes(len(GOOD), most=8), st.one_of(st.just(0), st.integers(0, len(GOOD))))
def test_random_damage(module_folder, changes, missing):
    content = damage.changed(GOOD, changes)
    assert not check(module_folder / "random.jsonl", content[: len(content) - missing])
