"""Damaged segment lists: the rows as they are written, or an error that names the file."""

from __future__ import annotations

import gzip
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.corpora.segments import Segment, read_segments
from tests.sweep import damage
from tests.sweep.reading import Refusal, read

ROWS = [
    Segment("--4gqARaEJE", 0.0, 10.0, ("/m/068hy", "/m/07q6cd_", "/m/0bt9lr")),
    Segment("_a-b_30_40_", 30.0, 40.0, ("/m/03fwl",)),
    Segment("Y2abcdefghi", 0.5, 7.25, ("/m/04rlf", "/t/dd00004")),
]
TEXT = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=3, num_segs=3\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
    '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_,/m/0bt9lr"\n'
    '_a-b_30_40_, 30.000, 40.000, "/m/03fwl"\n'
    'Y2abcdefghi, 0.500, 7.250, "/m/04rlf,/t/dd00004"\n'
)
GOOD = TEXT.encode()
MIDDLE = '_a-b_30_40_, 30.000, 40.000, "/m/03fwl"'


@pytest.fixture
def rows_of(tmp_path):
    """A function from the bytes of a list to its rows or to a refusal."""

    def rows(content: bytes) -> list[Segment] | Refusal:
        path = tmp_path / "segments.csv"
        path.write_bytes(content)
        return read(lambda: list(read_segments(path)), path)

    return rows


def with_middle(row: str) -> bytes:
    """The list with another second row."""
    return TEXT.replace(MIDDLE, row).encode()


def test_the_good_list(rows_of):
    assert rows_of(GOOD) == ROWS


SAME = {
    "BOM": b"\xef\xbb\xbf" + GOOD,
    "CRLF": GOOD.replace(b"\n", b"\r\n"),
    "no newline at the end": GOOD.rstrip(b"\n"),
    "blank lines": GOOD.replace(b"\n", b"\n\n"),
    "no space behind commas": GOOD.replace(b", ", b","),
    "labels without quotes": GOOD.replace(b'"', b""),
    "comments between rows": GOOD.replace(b"\nY2", b"\n# here\nY2"),
    "a comma behind the labels": with_middle('_a-b_30_40_, 30.000, 40.000, "/m/03fwl,"'),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_no_damage(rows_of, name):
    assert rows_of(SAME[name]) == ROWS


EMPTY = {
    "empty": b"",
    "newlines": b"\n\r\n\n",
    "only comments": b"# a\n# b\n",
    "a comment": b"#",
    "BOM": b"\xef\xbb\xbf",
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_list_without_rows(rows_of, name):
    rows = rows_of(EMPTY[name])
    assert rows == [] or isinstance(rows, Refusal)


REFUSED = {
    "UTF-16": TEXT.encode("utf-16"),
    "Latin-1": with_middle("_caf\xe9____, 30, 40, /m/1").decode().encode("latin-1"),
    "half a character": GOOD + b'x\xc3, 1, 2, "/m/1"\n',
    "gzip": gzip.compress(GOOD),
    "zeros": bytes(1000),
    "noise": damage.noise(1000),
    "HTML": b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n",
    "JSON": b'{"id": "x",\n "start": 0}\n',
    "another list": b'index,mid,display_name\n0,/m/09x0r,"Speech"\n',
    "a header without #": b"YTID, start_seconds, end_seconds, positive_labels\n" + GOOD,
    "tabs": GOOD.replace(b", ", b"\t"),
    "semicolons": GOOD.replace(b", ", b"; "),
    "decimal commas": GOOD.replace(b".000", b",000"),
    **{
        f"row: {row[:40]}": with_middle(row)
        for row in (
            "_a-b_30_40_",
            "_a-b_30_40_, 30.000",
            "_a-b_30_40_, 30.000, 40.000",
            '30.000, 40.000, "/m/03fwl"',
            ', 30.000, 40.000, "/m/03fwl"',
            '   , 30.000, 40.000, "/m/03fwl"',
            '"", 30.000, 40.000, "/m/03fwl"',
            '30.000, _a-b_30_40_, 40.000, "/m/03fwl"',
            '"/m/03fwl", 30.000, 40.000, _a-b_30_40_'.replace("30.000", "x"),
            ",,,",
            ", , , , ,",
            '"',
            '_a-b_30_40_, 30.000, 40.000, "/m/03fwl',
            '_a-b_30_40_, "30.000, 40.000, /m/03fwl',
            '"_a-b_30_40_, 30.000, 40.000, /m/03fwl',
            '_a-b_30_40_, 30.000, 40.000, "/m/03"fwl"',
            '_a-b_30_40_, 30.000, 40.000, "/m/03fwl"x',
            '_a-b\0_30_40, 30.000, 40.000, "/m/03fwl"',
            '_a-b\n_30_40, 30.000, 40.000, "/m/03fwl"',
            '_a-b_30_40_, 30.0\0, 40.000, "/m/03fwl"',
            '_a-b_30_40_, 30.000, 40.000, "' + "x" * 1_000_000 + '"',
            "y" * 1_000_000 + ', 30.000, 40.000, "/m/03fwl"',
            "_a-b_30_40_, 30.000, 4" + "0" * 1_000_000 + ', "/m/03fwl"',
        )
    },
}
SECONDS = {
    f"{start!r} to {end!r}": with_middle(f'_a-b_30_40_, {start}, {end}, "/m/03fwl"')
    for start, end in (
        ("40.000", "30.000"),
        ("30.000", "30.000"),
        ("0", "0"),
        ("-1", "10"),
        ("-0.001", "10"),
        ("-10", "-1"),
        ("nan", "10"),
        ("0", "nan"),
        ("nan", "nan"),
        ("0", "inf"),
        ("-inf", "inf"),
        ("inf", "inf"),
        ("0", "1e309"),
        ("", "10"),
        ("0", ""),
        ("zero", "ten"),
        ("0:00", "0:10"),
        ("0x0", "0xa"),
        ("0 1", "10"),
        ("--1", "10"),
        ("1e", "10"),
        ("None", "10"),
        ("True", "10"),
    )
}


@pytest.mark.parametrize("name", [*REFUSED, *SECONDS])
def test_what_is_no_list(rows_of, name):
    rows = rows_of({**REFUSED, **SECONDS}[name])
    assert isinstance(rows, Refusal), rows


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e308", 1e308),
        ("1e2", 100.0),
        ("+40", 40.0),
        ("40.", 40.0),
        ("1_00", None),
        ("\uff14\uff10", None),
        ("40s", None),
    ],
)
def test_numbers_are_taken_as_they_are_written(rows_of, written, value):
    rows = rows_of(with_middle(f'_a-b_30_40_, 30.000, {written}, "/m/03fwl"'))
    if value is None:
        assert isinstance(rows, Refusal), rows
    else:
        assert isinstance(rows, Refusal) or rows[1] == Segment("_a-b_30_40_", 30.0, value, ("/m/03fwl",))


IDS = [
    "___________",
    "-----------",
    "_",
    "a b",
    "it's",
    "ünïcödé",
    "日本語",
    "e\u0301",
    "\u202egpj.exe",
    "%00",
    "$(reboot)",
    "a;b",
    "a\\b",
    "~",
    "NaN",
    "0",
    "x" * 5000,
]
TROUBLESOME_IDS = ["../../x", "/etc/passwd", "a/b", "..", "."]


@pytest.mark.parametrize("clip_id", [*IDS, *TROUBLESOME_IDS], ids=lambda text: text[:20])
def test_ids_stay_as_they_are(rows_of, clip_id):
    """An id is a name and never a path; whoever makes a file of it has to see to that."""
    rows = rows_of(with_middle(f'{clip_id}, 30.000, 40.000, "/m/03fwl"'))
    assert isinstance(rows, Refusal) or rows == [
        ROWS[0],
        Segment(clip_id, 30.0, 40.0, ("/m/03fwl",)),
        ROWS[2],
    ]
    assert clip_id in TROUBLESOME_IDS or not isinstance(rows, Refusal)


@pytest.mark.parametrize("clip_id", ['"a,b"', '"a""b"', '"#a"'])
def test_ids_in_quotes(rows_of, clip_id):
    """A comma or quote in an id, and a sign that otherwise begins a comment."""
    rows = rows_of(with_middle(f'{clip_id}, 30.000, 40.000, "/m/03fwl"'))
    plain = clip_id[1:-1].replace('""', '"')
    assert isinstance(rows, Refusal) or [row.id for row in rows] == [ROWS[0].id, plain, ROWS[2].id]


def test_an_id_that_comes_twice_is_left_to_stage_1(rows_of):
    assert rows_of(GOOD + TEXT.splitlines()[-1].encode()) == [*ROWS, ROWS[-1]]


@pytest.mark.parametrize("labels", ['""', "", '","', '" "'])
def test_a_row_without_labels(rows_of, labels):
    rows = rows_of(with_middle(f"_a-b_30_40_, 30.000, 40.000, {labels}"))
    assert isinstance(rows, Refusal) or rows[1] == Segment("_a-b_30_40_", 30.0, 40.0, ())


def test_a_thousand_labels(rows_of):
    mids = tuple(f"/m/{number}" for number in range(1000))
    rows = rows_of(with_middle(f'_a-b_30_40_, 30.000, 40.000, "{",".join(mids)}"'))
    assert rows[1].mids == mids


def test_what_is_no_file(tmp_path):
    for path in (tmp_path / "gone.csv", tmp_path, tmp_path / "x" / "y.csv", tmp_path / ("n" * 300)):
        assert isinstance(read(lambda path=path: list(read_segments(path)), path), Refusal), path
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    assert isinstance(
        read(lambda: list(read_segments(tmp_path / "loop.csv")), tmp_path / "loop.csv"), Refusal
    )


@pytest.mark.parametrize("quotes", [True, False], ids=["quoted", "bare"])
def test_a_list_cut_off_at_any_byte(rows_of, quotes):
    """Only whole rows come out; without quotes the very last label cannot show that it was longer."""
    content = GOOD if quotes else GOOD.replace(b'"', b"")
    failures = []
    for length in range(len(content)):
        rows = rows_of(content[:length])
        if isinstance(rows, Refusal) or rows == ROWS[: len(rows)]:
            continue
        *whole, last = rows
        expected = ROWS[len(whole)]
        is_shorter = last.mids == expected.mids[: len(last.mids) - 1] + last.mids[-1:] and expected.mids[
            max(len(last.mids) - 1, 0)
        ].startswith(last.mids[-1] if last.mids else "")
        if quotes or whole != ROWS[: len(whole)] or not is_shorter:
            failures.append(f"cut to {length} bytes: {rows}")
    assert not failures, "\n".join(failures)


def is_sound(row: Segment) -> bool:
    """What every row keeps, whatever was done to the list."""
    return bool(row.id) and 0 <= row.start_s < row.end_s < math.inf and all(row.mids)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(damage.any_changes(len(GOOD)), st.integers(0, len(GOOD)))
def test_random_damage(module_folder, changes, missing):
    content = damage.changed(GOOD, changes)
    path = module_folder / "random-segments.csv"
    path.write_bytes(content[: len(content) - missing // 4])
    rows = read(lambda: list(read_segments(path)), path)
    assert isinstance(rows, Refusal) or all(map(is_sound, rows)), rows
