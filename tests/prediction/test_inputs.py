"""Which files are tagged: files, folders, lists."""

from __future__ import annotations

import io

import pytest

from audiotag.errors import DataError
from audiotag.prediction.inputs import Input, find_inputs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in (
        "b/2.WAV",
        "b/1.flac",
        "a.ogg",
        "b/notes.txt",
        ".hidden/x.wav",
        "b/.x.wav",
        "z.mp3",
        "c.m4a",
    ):
        path = tmp_path / "sounds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


BELOW = ["a.ogg", "b/1.flac", "b/2.WAV", "c.m4a", "z.mp3"]


def test_a_folder_means_the_sound_files_below_it_in_order(folder):
    for given in ("sounds", "sounds/", "./sounds", str(folder / "sounds")):
        found = find_inputs([given])
        assert [item.name for item in found] == BELOW
    assert found[1].path == str(folder / "sounds" / "b" / "1.flac")
    assert find_inputs(["sounds"])[0] == Input("sounds/a.ogg", "a.ogg")


def test_a_file_is_taken_whatever_its_name_and_none_is_taken_twice(folder):
    found = find_inputs(["sounds/b/notes.txt", "gone.wav", "sounds", "sounds/z.mp3"])
    assert [item.path for item in found[:2]] == ["sounds/b/notes.txt", "gone.wav"]
    assert [item.name for item in found] == ["notes.txt", "gone.wav", *BELOW]


def test_lists_name_files_and_folders(folder, monkeypatch):
    (folder / "list.txt").write_text("gone.wav\r\n\n name with blanks .wav\nsounds/b\n".replace("\r", ""))
    names = ["gone.wav", " name with blanks .wav", "1.flac", "2.WAV"]
    assert [item.name for item in find_inputs([], ["list.txt"])] == names
    for arguments in ((["-"],), ([], ["-"])):
        monkeypatch.setattr("sys.stdin", io.StringIO((folder / "list.txt").read_text()))
        assert [item.name for item in find_inputs(*arguments)] == names


def test_nothing_to_tag_is_an_error(folder):
    (folder / "none").mkdir()
    with pytest.raises(DataError, match="no file to tag"):
        find_inputs(["none"])
    with pytest.raises(DataError, match=r"list of files cannot be read: gone.txt \(No such file"):
        find_inputs([], ["gone.txt"])
