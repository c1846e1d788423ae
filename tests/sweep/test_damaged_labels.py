"""Damaged label lists: the table as it is written, or an error that names the file."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings

from audiotag.corpora.classes import read_table
from audiotag.data.splits import read_labels
from audiotag.labels import Label, LabelTable
from tests.sweep import damage
from tests.sweep.reading import Refusal, read

LABELS = [
    Label(0, "/m/09x0r", "Speech"),
    Label(1, "/m/05zppz", "Male speech, man speaking"),
    Label(2, "/t/dd00003", 'Say "ah"'),
    Label(3, "/m/0dgw9r", "Ünï cödé"),
]
TEXT = (
    "index,mid,display_name\n"
    '0,/m/09x0r,"Speech"\n'
    '1,/m/05zppz,"Male speech, man speaking"\n'
    '2,/t/dd00003,"Say ""ah"""\n'
    '3,/m/0dgw9r,"Ünï cödé"\n'
)
GOOD = TEXT.encode()
SECOND = '1,/m/05zppz,"Male speech, man speaking"'


@pytest.fixture
def table_of(tmp_path):
    """A function from the bytes of a list to its labels or to a refusal."""

    def labels(content: bytes) -> list[Label] | Refusal:
        path = tmp_path / "class_labels_indices.csv"
        path.write_bytes(content)
        table = read(lambda: LabelTable.read(path), path)
        return table if isinstance(table, Refusal) else list(table)

    return labels


def with_second(row: str) -> bytes:
    """The list with another second row."""
    return TEXT.replace(SECOND, row).encode()


def test_the_good_list(table_of):
    assert table_of(GOOD) == LABELS


HARMLESS = {
    "CRLF": GOOD.replace(b"\n", b"\r\n"),
    "CR": GOOD.replace(b"\n", b"\r"),
    "no newline at the end": GOOD.rstrip(b"\n"),
    "blank lines": GOOD.replace(b"\n", b"\n\n"),
    "BOM": b"\xef\xbb\xbf" + GOOD,
    "spaces behind commas": GOOD.replace(b",/", b", /").replace(b',"', b', "').replace(b",mid", b", mid"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_nothing(table_of, name):
    table = table_of(HARMLESS[name])
    assert table == LABELS or (name in ("CR", "BOM", "spaces behind commas") and isinstance(table, Refusal))


REFUSED = {
    "empty": b"",
    "newlines": b"\n\n\n",
    "only a BOM": b"\xef\xbb\xbf",
    "only a header": b"index,mid,display_name\n",
    "no header": GOOD.partition(b"\n")[2],
    "another header": GOOD.replace(b"index,mid", b"mid,index"),
    "half a header": GOOD.replace(b"index,mid,display_name", b"index,mid"),
    "capitals": GOOD.replace(b"index", b"INDEX"),
    "swapped columns": b"index,mid,display_name\n/m/09x0r,0,Speech\n",
    "UTF-16": TEXT.encode("utf-16"),
    "Latin-1": TEXT.encode("latin-1"),
    "half a character": GOOD[:-3],
    "gzip": gzip.compress(GOOD),
    "zeros": bytes(1000),
    "noise": damage.noise(1000),
    "HTML": b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n",
    "JSON": b'[{"index": 0, "mid": "/m/09x0r"}]\n',
    "another list": b'--4gqARaEJE, 0.000, 10.000, "/m/068hy"\n',
    "tabs": GOOD.replace(b",", b"\t"),
    "semicolons": GOOD.replace(b",", b";"),
    "rows in another order": b"\n".join([GOOD.splitlines()[0], *GOOD.splitlines()[:0:-1]]) + b"\n",
    "twice": GOOD + GOOD,
    "a row twice": GOOD + b'3,/m/0dgw9r,"Again"\n',
    "a mid twice": GOOD + b'4,/m/09x0r,"Speech again"\n',
    "a missing row": with_second("").replace(b"\n\n", b"\n"),
    **{
        f"row: {row[:30]}": with_second(row)
        for row in (
            "1",
            "1,/m/05zppz",
            "1,/m/05zppz,Male speech, man speaking",
            "1,,Male",
            '1,"",Male',
            "1, ,Male",
            ",/m/05zppz,Male",
            ",,",
            "-1,/m/05zppz,Male",
            "0,/m/05zppz,Male",
            "2,/m/05zppz,Male",
            "7,/m/05zppz,Male",
            "1.0,/m/05zppz,Male",
            "1.5,/m/05zppz,Male",
            "one,/m/05zppz,Male",
            "nan,/m/05zppz,Male",
            "0x1,/m/05zppz,Male",
            "1e0,/m/05zppz,Male",
            "1" + "0" * 30 + ",/m/05zppz,Male",
            "1" + "0" * 6000 + ",/m/05zppz,Male",
            '1,/m/05zppz,"Male',
            '1,"/m/05zppz,Male',
            '"1,/m/05zppz,Male',
            '1,/m/05zppz,"Male"x',
            "1,/m/05\0zppz,Male",
            "1,/m/05zppz,Ma\0le",
            '1,"/m/05\nzppz",Male',
            "1,/m/05zppz," + "x" * 1_000_000,
            "1," + "x" * 1_000_000 + ",Male",
            "# 1,/m/05zppz,Male",
        )
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_label_list(table_of, name):
    table = table_of(REFUSED[name])
    assert isinstance(table, Refusal), table


@pytest.mark.parametrize("index", ["1_0", "\uff11", "+1", " 1", "01"])
def test_indices_are_taken_as_they_are_written(table_of, index):
    table = table_of(with_second(f"{index},/m/05zppz,Male"))
    assert isinstance(table, Refusal) or (index.strip(" +0") == "1" and len(table) == 4)


@pytest.mark.parametrize(
    "name", ["", " ", "a\\b", "a/b", "../x", "日本", "e\u0301", "\u202ex", "x" * 5000, "<b>", "$(id)"]
)
def test_names_stay_as_they_are(table_of, name):
    table = table_of(with_second(f'1,/m/05zppz,"{name}"'))
    assert isinstance(table, Refusal) or table[1] == Label(1, "/m/05zppz", name)


@pytest.mark.parametrize("text", ["", "\n \n", "dog\ncat\ndog\n", "dog\nc\0at\n", "x" * 100_000 + "\0"])
def test_what_is_no_list_of_classes(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    assert isinstance(read(lambda: read_table(path), path), Refusal)


def test_what_is_no_file(tmp_path):
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop)
    for path in (tmp_path / "gone.csv", tmp_path, tmp_path / "x" / "y.csv", tmp_path / ("n" * 300), loop):
        for function in (LabelTable.read, read_table):
            assert isinstance(read(lambda path=path, function=function: function(path), path), Refusal), path


def test_a_list_cut_off_at_any_byte(table_of):
    """Whole rows, or an error; a name without its closing quote is not a name.

    Only a name that was cut at a quote inside it looks like a whole one.
    """

    def before_quotes(labels: list[Label]) -> list[tuple[int, str, str]]:
        return [(label.index, label.mid, label.name.partition('"')[0]) for label in labels]

    failures = []
    for length in range(len(GOOD)):
        table = table_of(GOOD[:length])
        if not isinstance(table, Refusal) and before_quotes(table) != before_quotes(LABELS[: len(table)]):
            failures.append(f"cut to {length} bytes: {table}")
    assert not failures, "\n".join(failures)


def test_the_table_that_stage_1_left(tmp_path):
    """Through `read_labels`, cut off at any byte, and with any byte zeroed."""
    LabelTable(LABELS).write(tmp_path / "manifests" / "labels.csv")
    path = tmp_path / "manifests" / "labels.csv"
    content = path.read_bytes()
    assert list(read_labels(tmp_path)) == LABELS
    failures = []
    for length in range(len(content)):
        path.write_bytes(content[:length])
        table = read(lambda: read_labels(tmp_path), path)
        # A name without quotes does not show that it was longer.
        if not isinstance(table, Refusal) and [label.mid for label in table] != [
            label.mid for label in LABELS[: len(table)]
        ]:
            failures.append(f"cut to {length} bytes: {list(table)}")
    for place in range(len(content)):
        path.write_bytes(damage.with_field(place, b"\0")(content))
        table = read(lambda: read_labels(tmp_path), path)
        if not (isinstance(table, Refusal) and "run stage 1 again" in table):
            failures.append(f"byte {place} zeroed: {list(table)}")
    assert not failures, "\n".join(failures[:10])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(damage.any_changes(len(GOOD), most=4))
def test_random_damage(module_folder, changes):
    path = module_folder / "random-labels.csv"
    path.write_bytes(damage.changed(GOOD, changes))
    table = read(lambda: LabelTable.read(path), path)
    if not isinstance(table, Refusal):
        assert [label.index for label in table] == list(range(len(table)))
        assert len({label.mid for label in table}) == len(table) and all(label.mid for label in table)
