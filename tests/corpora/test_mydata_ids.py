"""Ids of a user's clips: readable, stable, and one for each place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.corpora.entries import Entry, name_clips

ROOT = Path("/my data")


@pytest.mark.parametrize(
    ("path", "start_s", "end_s", "expected"),
    [
        ("/my data/dog/1.wav", 0.0, None, "dog/1"),
        ("/my data/dog/1.wav", 0.0, 2.5, "dog/1_0_2500"),
        ("/my data/dog/1.wav", 1.2345, None, "dog/1_1234_end"),
        ("/my data/v1.2/no extension", 0.0, None, "v1.2/no extension"),
        ("/my data/a.b.flac", 0.0, None, "a.b"),
        ("/elsewhere/1.wav", 0.0, None, "elsewhere/1"),
        ("/my data/caf\udce9.wav", 0.0, None, "caf\\xe9"),
    ],
)
def test_an_id_says_where_the_clip_is(path, start_s, end_s, expected):
    assert name_clips([Entry(path, (), None, start_s, end_s)], ROOT) == [expected]


def test_parts_within_a_millisecond_are_told_apart():
    first, second = name_clips(
        [Entry("/my data/a.wav", (), None, 0.0001, 1.0), Entry("/my data/a.wav", (), None, 0.0002, 1.0)], ROOT
    )
    assert first != second and first.startswith("a_0_1000_")


# Few names, so that they collide: files that look like parts, that differ by extension, outside and inside.
PATHS = st.sampled_from(
    [f"{root}{stem}{extension}" for root in ("/my data/", "/") for stem in ("a", "a_0_1000", "b/a", "a.wav")
     for extension in (".wav", ".flac", "")]
)  # fmt: skip
ENTRIES = st.lists(
    st.builds(
        Entry,
        path=PATHS,
        labels=st.just(()),
        split=st.none(),
        start_s=st.sampled_from([0.0, 0.0001, 0.5]),
        end_s=st.sampled_from([None, 1.0, 1.0001]),
    ),
    max_size=40,
)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(ENTRIES, st.randoms(use_true_random=False))
def test_one_id_for_each_place_whatever_the_order(entries, random):
    ids = dict(zip((entry.place for entry in entries), name_clips(entries, ROOT), strict=True))
    assert len(set(ids.values())) == len(ids)
    shuffled = list(entries)
    random.shuffle(shuffled)
    assert dict(zip((entry.place for entry in shuffled), name_clips(shuffled, ROOT), strict=True)) == ids
