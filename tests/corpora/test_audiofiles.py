from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.corpora.audiofiles import find_audio, match_stem, walk_files
from audiotag.corpora.segments import Segment
from audiotag.corpora.synthetic import ID_ALPHABET
from audiotag.errors import DataError


def segments(*ids, start=30.0):
    return [Segment(clip_id, start, start + 10, ()) for clip_id in ids]


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(folder, *listed, start=30.0):
    paths = find_audio(folder, segments(*listed, start=start))
    return {clip_id: path.removeprefix(f"{folder}/") for clip_id, path in paths.items()}


@pytest.mark.parametrize(
    "clip_id", ["abcdefghijk", "-abc_def-12", "_bcdefghi_3", "a_30_000_40", "Yabcdefghij", "a__30000__b"]
)
@pytest.mark.parametrize(
    "name",
    [
        "{}.wav",
        "Y{}.flac",
        "{}_30.000_40.000.wav",
        "{}_30_40.WAV",
        "{}_30000.flac",
        "Y{}_30000_40000.mp3",
        "deep/er/{}.opus",
        "{}_30.m4a",
    ],
)
def test_every_layout_and_id(tmp_path, clip_id, name):
    name = name.format(clip_id)
    touch(tmp_path, name, "unrelated.wav", "notes.txt", f"{clip_id}.txt")
    assert found(tmp_path, clip_id, "bbbbbbbbbbb") == {clip_id: name}


def test_another_start_is_another_clip(tmp_path):
    touch(tmp_path, "abcdefghijk_430.wav", "abcdefghijk_430_440.flac")
    assert found(tmp_path, "abcdefghijk", start=0.0) == {}
    assert found(tmp_path, "abcdefghijk", start=430.0) == {"abcdefghijk": "abcdefghijk_430.wav"}


ids = st.text(ID_ALPHABET, min_size=11, max_size=11)
forms = st.sampled_from(["{}", "Y{}", "{}_{s}_{e}", "{}_{s}.000_{e}.000", "{}_{s}000", "{}_{s}000_{e}000"])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(ids, min_size=1, max_size=8, unique=True), st.data())
def test_any_id_is_found_under_any_name(listed, data):
    starts = {clip_id: float(data.draw(st.integers(0, 500))) for clip_id in listed}
    for clip_id in listed:
        start = int(starts[clip_id])
        stem = data.draw(forms).format(clip_id, s=start, e=start + 10)
        assert [found for found, _ in match_stem(stem, starts)] == [clip_id]


def test_ids_come_from_the_lists_alone(tmp_path):
    touch(tmp_path, "abc_30.wav", "abc_30_40.wav", "xyz_99.wav", "xyz_99_109.wav")
    # As an id of its own the shorter name is a clip; as `abc` at 30 s it is not, since it is taken.
    assert found(tmp_path, "abc_30") == {"abc_30": "abc_30.wav"}
    assert found(tmp_path, "abc") == {"abc": "abc_30.wav"}
    # Another stretch of the same video is another clip.
    assert found(tmp_path, "xyz") == {}
    assert found(tmp_path, "xyz", start=99.0) == {"xyz": "xyz_99.wav"}


def test_the_choice_among_several_files_is_fixed(tmp_path):
    touch(tmp_path, "b/abc.mp3", "b/abc.flac", "a/Yabc.wav", "abc_30_40.wav", "c/abc.flac")
    assert found(tmp_path, "abc") == {"abc": "b/abc.flac"}


def test_links_are_followed_and_circles_are_not(tmp_path):
    touch(tmp_path / "elsewhere", "abc.wav", "def.wav")
    audio = tmp_path / "audio"
    audio.mkdir()
    (audio / "folder").symlink_to(tmp_path / "elsewhere")
    (audio / "ghi.wav").symlink_to(tmp_path / "elsewhere" / "abc.wav")
    (audio / "lost.wav").symlink_to(tmp_path / "nowhere.wav")
    (audio / "circle").symlink_to(audio)
    assert found(audio, "abc", "def", "ghi", "lost") == {
        "abc": "folder/abc.wav",
        "def": "folder/def.wav",
        "ghi": "ghi.wav",
    }


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"audio folder not found: .*/absent"):
        find_audio(tmp_path / "absent", [])


def test_where_an_id_is_listed_twice_its_first_row_counts(tmp_path):
    touch(tmp_path, "abc_30.wav", "abc_60.wav")
    both = [*segments("abc", start=60.0), *segments("abc", start=30.0)]
    assert find_audio(tmp_path, both) == {"abc": str(tmp_path / "abc_60.wav")}


def test_names_with_two_meanings_are_read_like_the_others(tmp_path):
    """Ids of several lengths: `ab_30` is an id by itself, and `ab` with its start."""
    listed = [*segments("ab", "cde", "fgh"), *segments("ab_30", start=40.0)]
    touch(tmp_path / "ids", "ab.wav", "ab_30.wav", "cde.wav", "fgh.wav")
    touch(tmp_path / "starts", "ab_30.wav", "ab_30_40.wav", "cde_30.wav", "fgh_30.wav")
    for folder, names in (
        ("ids", {"ab": "ab.wav", "ab_30": "ab_30.wav"}),
        ("starts", {"ab": "ab_30.wav", "ab_30": "ab_30_40.wav"}),
    ):
        paths = find_audio(tmp_path / folder, listed)
        assert len(paths) == 4
        for clip_id, name in names.items():
            assert paths[clip_id] == str(tmp_path / folder / name)


def test_downloads_without_a_decoder_are_found_when_there_is_nothing_else(tmp_path):
    touch(tmp_path, "abc.m4a", "abc.mp3", "def.webm")
    assert found(tmp_path, "abc", "def") == {"abc": "abc.mp3", "def": "def.webm"}


AWKWARD = [
    b"with space",
    b"with\nline break",
    "\u00fcml\u00e4ut \u266b".encode(),
    b"latin\xe9\xff",
    b"-rf",
    b"'\"$;",
]


@pytest.mark.parametrize("name", AWKWARD)
def test_folders_and_files_of_any_name(tmp_path, name):
    name = os.fsdecode(name)
    touch(tmp_path, f"{name}/abc.wav", f"{name}.wav")
    assert found(tmp_path, "abc", name) == {"abc": f"{name}/abc.wav", name: f"{name}.wav"}


def test_links_that_lead_nowhere(tmp_path):
    touch(tmp_path, "abc.wav")
    (tmp_path / "itself.wav").symlink_to("itself.wav")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "absent.wav").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.wav")
    assert found(tmp_path, "abc", "itself", "absent", "pipe") == {"abc": "abc.wav"}


def test_a_folder_is_listed_by_its_own_path_rather_than_by_a_link(tmp_path):
    touch(tmp_path, "zz/deep/abc.wav", "zz/deep/def.wav")
    (tmp_path / "aa").symlink_to(tmp_path / "zz" / "deep")
    (tmp_path / "bb").symlink_to(tmp_path / "aa")
    assert sorted(path.removeprefix(f"{tmp_path}/") for _, path in walk_files(tmp_path)) == [
        "zz/deep/abc.wav",
        "zz/deep/def.wav",
    ]


def test_a_folder_that_cannot_be_listed_is_warned_of(caplog):
    with tempfile.TemporaryDirectory() as name, as_nobody(Path(name)):
        audio = Path(name) / "audio"
        audio.mkdir()
        touch(audio, "abc.wav", "locked/def.wav", "open/ghi.wav")
        (audio / "locked").chmod(0)
        try:
            assert found(audio, "abc", "def", "ghi") == {"abc": "abc.wav", "ghi": "open/ghi.wav"}
            [record] = caplog.records
            assert record.message == (
                f"cannot list {audio}/locked (Permission denied): files in it count as missing"
            )
            with pytest.raises(DataError, match=rf"cannot list the folder {audio}/locked: Permission denied"):
                find_audio(audio / "locked", [])
        finally:
            (audio / "locked").chmod(0o755)


@contextmanager
def as_nobody(folder):
    """Give up the rights of root, to whom no folder is closed, but write into this folder."""
    user = os.geteuid()
    if user == 0:
        folder.chmod(0o777)
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
