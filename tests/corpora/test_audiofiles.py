from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.corpora.audiofiles import find_audio, match_stem
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


@settings(max_examples=150, deadline=None)
@given(st.lists(ids, min_size=1, max_size=8, unique=True), st.data())
def test_any_id_is_found_under_any_name(listed, data):
    starts = {clip_id: {float(data.draw(st.integers(0, 500)))} for clip_id in listed}
    for clip_id in listed:
        start = int(min(starts[clip_id]))
        stem = data.draw(forms).format(clip_id, s=start, e=start + 10)
        assert match_stem(stem, starts)[0] == clip_id


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
