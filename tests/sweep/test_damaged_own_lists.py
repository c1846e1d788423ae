"""Damaged lists of a user's own clips, and a folder of classes with odd files in it."""

from __future__ import annotations

import csv
import gzip
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.configcorpus import MyDataCorpus
from audiotag.corpora.csvlist import read_list
from audiotag.corpora.mydata import prepare_mydata
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio
from tests.sweep import damage
from tests.sweep.guard import guarded
from tests.sweep.preparing import prepared
from tests.sweep.reading import Refusal, read
from tests.sweep.sounds import SOUNDS

TEXT = (
    'path,labels,start,end,split\na.wav,dog;barking,,,train\n"b, c.wav",cat,1.5,2.5,eval\n/abs/d.flac,,,,\n'
)
GOOD = TEXT.encode()
MIDDLE = '"b, c.wav",cat,1.5,2.5,eval'


@pytest.fixture
def entries_of(tmp_path):
    """A function from the bytes of a list to its entries or to a refusal."""

    def entries(content: bytes):
        path = tmp_path / "clips.csv"
        path.write_bytes(content)
        return read(lambda: read_list(path), path)

    return entries


def with_middle(row: str) -> bytes:
    """The list with another second row."""
    return TEXT.replace(MIDDLE, row).encode()


def test_the_good_list(entries_of, tmp_path):
    first, second, third = entries_of(GOOD)
    assert (first.path, first.labels, first.split) == (f"{tmp_path}/a.wav", ("dog", "barking"), "train")
    assert (second.path, second.start_s, second.end_s) == (f"{tmp_path}/b, c.wav", 1.5, 2.5)
    assert (third.path, third.labels) == ("/abs/d.flac", ())


HARMLESS = {
    "BOM": b"\xef\xbb\xbf" + GOOD,
    "CRLF": GOOD.replace(b"\n", b"\r\n"),
    "no newline at the end": GOOD.rstrip(b"\n"),
    "blank lines": GOOD.replace(b"\n", b"\n\n"),
    "spaces behind commas": GOOD.replace(b",cat,", b", cat, "),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_nothing(entries_of, name):
    assert entries_of(HARMLESS[name]) == entries_of(GOOD)


REFUSED = {
    "empty": b"",
    "a newline": b"\n",
    "no header": TEXT.partition("\n")[2].encode(),
    "half a header": GOOD.replace(b"path,labels", b"path"),
    "semicolons": GOOD.replace(b",", b";"),
    "UTF-16": TEXT.encode("utf-16"),
    "Latin-1": with_middle("caf\xe9.wav,cat").decode().encode("latin-1"),
    "gzip": gzip.compress(GOOD),
    "zeros": bytes(500),
    "noise": damage.noise(500),
    "HTML": b"<!DOCTYPE html>\n<html></html>\n",
    "JSON": b'[{"path": "a.wav"}]\n',
    "a column twice": GOOD.replace(b"start", b"path"),
    **{
        f"row: {row[:30]}": with_middle(row)
        for row in (
            "b.wav",
            ",cat",
            '"",cat',
            " ,cat",
            "b, c.wav,cat,1.5,2.5,eval",
            '"b.wav,cat,1.5,2.5,eval',
            '"b.wav"x,cat,1.5,2.5,eval',
            "b\0.wav,cat,1.5,2.5,eval",
            "b.wav,c\0at,1.5,2.5,eval",
            "b.wav,cat,2.5,1.5,eval",
            "b.wav,cat,1.5,1.5,eval",
            "b.wav,cat,-1,1.5,eval",
            "b.wav,cat,nan,1.5,eval",
            "b.wav,cat,0,inf,eval",
            "b.wav,cat,0,1e400,eval",
            "b.wav,cat,one,two,eval",
            "b.wav,cat,0:00,0:10,eval",
            "b.wav,cat,1_0,2_0,eval",
            "b.wav,cat,\uff11,\uff12,eval",
            "b.wav,cat,1.5,2.5,tests",
            "b.wav,cat,1.5,2.5,eval,more",
            "b.wav," + "x" * 1_000_000,
            "x" * 1_000_000 + ",cat",
        )
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_list(entries_of, name):
    entries = entries_of(REFUSED[name])
    assert isinstance(entries, Refusal), entries


@pytest.mark.parametrize("name", ["gone.csv", "folder", "loop.csv", "x/y.csv", "n" * 300])
def test_what_is_no_file(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    assert isinstance(read(lambda: read_list(tmp_path / name), tmp_path / name), Refusal)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(damage.any_changes(len(GOOD)), st.integers(0, len(GOOD)))
def test_random_damage(module_folder, changes, missing):
    content = damage.changed(GOOD, changes)
    path = module_folder / "random-clips.csv"
    path.write_bytes(content[: len(content) - missing // 3])
    entries = read(lambda: read_list(path), path)
    for entry in [] if isinstance(entries, Refusal) else entries:
        end_s = math.inf if entry.end_s is None else entry.end_s
        assert entry.path and entry.split in (None, "train", "valid", "eval") and 0 <= entry.start_s < end_s


@pytest.fixture(scope="module")
def classes(module_folder):
    """A folder of two classes, prepared: good files, damaged ones, odd names, text."""
    folder = module_folder
    for label in ("cat", "dog"):
        below = folder / "corpus" / label
        below.mkdir(parents=True)
        for number, sound in enumerate(SOUNDS):
            good = sound.write(below / f"{number}-{sound.name}")
            (below / f"cut-{number}.{sound.extension}").write_bytes(good[: len(good) * 2 // 3])
        for number, name in enumerate(
            ("ünï.wav", "line\nbreak.wav", "quote'\".wav", "a;b,c.wav", " .wav", "..wav")
        ):
            SOUNDS[number].write(below / "plain.wav")
            (below / "plain.wav").rename(below / name)
        sound = SOUNDS[-1].write(below / "plain.mp3")
        with open(os.fsencode(below) + b"/caf\xe9.mp3", "wb") as file:  # noqa: PTH123 (a name of bytes)
            file.write(sound)
        for extension in ("wav", "au", "mp3", "aiff"):
            (below / f"text.{extension}").write_text(f"not a sound but a {label}\n" * 100)
        os.mkfifo(below / "fifo.wav")
        (below / "loop").symlink_to(folder / "corpus")
    (folder / "corpus" / os.fsdecode(b"\xe9toile")).mkdir()
    (folder / "corpus" / os.fsdecode(b"\xe9toile") / "x.wav").write_bytes(SOUNDS[2].write(folder / "x.wav"))
    settings = MyDataCorpus(dir=str(folder / "corpus"), eval_share=0.5, valid_share=0.0, max_skip=1.0)
    return folder, prepared(prepare_mydata, folder, settings)


def test_a_folder_of_classes_is_used_or_listed(classes):
    folder, result = classes
    assert result == "done"
    for split in ("train", "eval"):
        with (folder / f"manifests/skipped_{split}.csv").open(newline="", encoding="utf-8") as file:
            reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
        assert all(reason.partition(":")[0].strip() and reason.isprintable() for reason in reasons.values())


def test_what_is_used_of_a_folder_of_classes_is_whole_sound(classes):
    folder, _ = classes
    cuts = {}
    for split in ("train", "eval"):
        manifest = IndexedManifest(folder / f"manifests/cuts_{split}.jsonl")
        cuts |= {manifest.id(position): manifest.record(position) for position in range(len(manifest))}
    results = guarded(lambda clip_id: len(load_audio(cuts[clip_id])) > 0, cuts)
    failures = {clip_id: why for clip_id, why in results.items() if why is not True}
    failures |= {clip_id: "accepted" for clip_id in cuts if "/cut-" in clip_id or "/text" in clip_id}
    assert not failures
