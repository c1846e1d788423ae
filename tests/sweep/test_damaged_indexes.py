"""Damaged index files: whatever lies beside a manifest, what comes out is what the manifest holds."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.data.index import IndexedManifest
from tests.sweep import damage
from tests.sweep.cuts import GOOD, LINES, columns
from tests.sweep.reading import Refusal, read

SEED_COUNT = 200


class Indexed:
    """A manifest, its index and its columns."""

    def __init__(self, folder: Path, content: bytes = GOOD) -> None:
        self.path = folder / "cuts_train.jsonl"
        self.path.write_bytes(content)
        self.columns = columns(self.path)
        self.index_path = self.path.with_name(self.path.name + ".idx")
        self.index = self.index_path.read_bytes()

    def with_index(self, content: bytes) -> str:
        """Why the manifest with this index breaks the promise, opened twice; "" when it keeps it."""
        self.index_path.write_bytes(content)
        try:
            for _ in range(2):
                got = columns(self.path)
                if got != self.columns:
                    return f"{[row[:3] for row in got]} came out"
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:300]
        return ""


@pytest.fixture(scope="module")
def unchanged(module_folder):
    """One for many examples, none of which changes the manifest."""
    return Indexed(module_folder)


@pytest.fixture
def indexed(tmp_path):
    return Indexed(tmp_path)


def test_a_good_index_stays(indexed):
    assert not indexed.with_index(indexed.index)
    assert indexed.index_path.read_bytes() == indexed.index


CONTENTS = {
    "empty": lambda content: b"",
    "a newline": lambda content: b"\n",
    "zeros": lambda content: bytes(len(content)),
    "ones": lambda content: b"\xff" * len(content),
    "noise": lambda content: damage.noise(len(content)),
    "many zeros": lambda content: bytes(1 << 20),
    "text": lambda content: b"This is not an index.\n" * 100,
    "null": lambda content: b"null\n",
    "a list": lambda content: b"[]\n",
    "an object": lambda content: b"{}\n",
    "brackets": lambda content: b"[" * 100_000,
    "brackets and a newline": lambda content: b"[" * 60_000 + b"\n",
    "the manifest": lambda content: GOOD,
    "twice": lambda content: content + content,
    "more behind": lambda content: content + b"\0",
    "noise behind": lambda content: content + damage.noise(100),
    "something in front": lambda content: b" " + content,
    "eight bytes in front": lambda content: bytes(8) + content,
    "reversed": lambda content: content[::-1],
    "a zeroed half": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    "a zeroed start": lambda content: bytes(64) + content[64:],
    "CRLF": lambda content: content.replace(b"\n", b"\r\n"),
    "capitals": bytes.upper,
    "digits": lambda content: content.translate(bytes.maketrans(b"0123456789", b"1234567890")),
    "swapped halves": lambda content: content[len(content) // 2 :] + content[: len(content) // 2],
}


@pytest.mark.parametrize("name", CONTENTS)
def test_another_content(indexed, name):
    assert not indexed.with_index(CONTENTS[name](indexed.index))


def test_cut_off_anywhere(indexed):
    failures = [
        f"cut to {length} bytes: {why}"
        for length in range(0, len(indexed.index), 3)
        for why in [indexed.with_index(indexed.index[:length])]
        if why
    ]
    assert not failures, "\n".join(failures[:10])


@pytest.mark.parametrize("bit", range(8))
def test_every_fourth_byte_flipped(indexed, bit):
    """The header that says where the columns are must be as well guarded as the columns."""
    failures = [
        f"bit {bit} of byte {place} of {len(indexed.index)}: {why}"
        for place in range(bit % 4, len(indexed.index), 4)
        for why in [indexed.with_index(damage.with_bit(place, bit)(indexed.index))]
        if why
    ]
    assert not failures, "\n".join(failures[:10])


def test_digits_of_the_header_changed(indexed):
    """A number becomes another number: a flip that stays good JSON."""
    header = indexed.index[: indexed.index.find(b"\n") + 1] or indexed.index[:256]
    failures = []
    for place, byte in enumerate(header):
        if chr(byte).isdigit():
            for digit in b"0159":
                why = (
                    indexed.with_index(damage.with_field(place, bytes([digit]))(indexed.index))
                    if digit != byte
                    else ""
                )
                if why:
                    failures.append(f"byte {place} from {chr(byte)} to {chr(digit)}: {why}")
    assert not failures, "\n".join(failures[:10])


def test_the_index_of_another_manifest(indexed, tmp_path):
    """Of one with fewer cuts, of one with the same cuts in another order, and of one as long to the byte."""
    others = [
        b"\n".join(LINES[:2]) + b"\n",
        b"\n".join(LINES[::-1]) + b"\n",
        GOOD.replace(b"-abc_def-12", b"-ABC_DEF-12"),
        b"",
    ]
    for number, content in enumerate(others):
        (tmp_path / str(number)).mkdir()
        other = Indexed(tmp_path / str(number), content)
        assert not indexed.with_index(other.index), number


def test_the_index_of_an_older_state(indexed):
    """The manifest has changed since, with its time and its length as before."""
    times = indexed.path.stat()
    for content in (
        GOOD.replace(b"1;1", b"1;2"),
        GOOD.replace(b"1;1", b"1;3"),
        b"\n".join(LINES[::-1]) + b"\n",
    ):
        before = indexed.index_path.read_bytes()
        indexed.path.write_bytes(content)
        os.utime(indexed.path, ns=(times.st_atime_ns, times.st_mtime_ns))
        indexed.columns = fresh(indexed.path)
        assert not indexed.with_index(before)


def fresh(path: Path) -> list[tuple]:
    """The columns of a manifest in a folder of its own."""
    folder = path.parent / "fresh"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / path.name).write_bytes(path.read_bytes())
    return columns(folder / path.name)


@pytest.mark.parametrize("mtime", [0, 1, 2**31, 2**33])
def test_times_of_the_index_file(indexed, mtime):
    os.utime(indexed.index_path, (mtime, mtime))
    assert columns(indexed.path) == indexed.columns
    os.utime(indexed.path, (mtime, mtime))
    assert columns(indexed.path) == indexed.columns


def make_folder(path):
    path.mkdir()


def make_full_folder(path):
    path.mkdir()
    (path / "x").touch()


def make_link_to_nothing(path):
    path.symlink_to(path.with_name("gone"))


def make_link_to_itself(path):
    path.symlink_to(path)


def make_link_to_zeros(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "make",
    [make_folder, make_full_folder, make_link_to_nothing, make_link_to_itself, make_link_to_zeros],
    ids=lambda make: make.__name__,
)
def test_what_is_no_file(indexed, make):
    indexed.index_path.unlink()
    make(indexed.index_path)
    for _ in range(2):
        rows = read(lambda: columns(indexed.path), indexed.path)
        assert isinstance(rows, Refusal) or rows == indexed.columns


def test_a_link_to_another_index_is_not_written_through(indexed, tmp_path):
    (tmp_path / "other").mkdir()
    other = Indexed(tmp_path / "other", b"\n".join(LINES[:2]) + b"\n")
    indexed.index_path.unlink()
    indexed.index_path.symlink_to(other.index_path)
    assert columns(indexed.path) == indexed.columns
    assert columns(other.path) == other.columns


def test_several_manifests_of_which_one_has_a_damaged_index(indexed, tmp_path):
    (tmp_path / "other").mkdir()
    other = Indexed(tmp_path / "other", GOOD.replace(b'"id": "', b'"id": "2'))
    indexed.index_path.write_bytes(damage.noise(len(indexed.index)))
    both = IndexedManifest([indexed.path, other.path])
    rows = indexed.columns + other.columns
    assert [both.id(i) for i in range(len(both))] == [row[0] for row in rows]
    assert [both.labels(i).tolist() for i in range(len(both))] == [row[2] for row in rows]
    assert [both.record(i) for i in range(len(both))] == [row[3] for row in rows]


def test_an_index_damaged_while_in_use_gives_no_foreign_cut(indexed):
    """The columns are mapped: what is overwritten in place shows, and a record is checked against its id."""
    manifest = IndexedManifest(indexed.path)
    rng = random.Random(0)
    for _ in range(SEED_COUNT):
        content = bytearray(indexed.index)
        for _ in range(4):
            content[rng.randrange(len(content))] = rng.randrange(256)
        with indexed.index_path.open("r+b") as file:
            file.write(content)
        for position, row in enumerate(indexed.columns):
            try:
                record = read(lambda position=position: manifest.record(position), indexed.path)
            except AssertionError as error:
                raise AssertionError(f"cut {position}: {error}") from error
            assert isinstance(record, Refusal) or record == row[3]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(damage.any_changes(1000), st.one_of(st.just(0), st.integers(0, 1000)))
def test_random_damage(unchanged, changes, missing):
    content = damage.changed(unchanged.index, changes)
    assert not unchanged.with_index(content[: len(content) - missing])
