from __future__ import annotations

import pytest

from audiotag.corpora.segments import Segment, read_segments
from audiotag.errors import DataError


def read(tmp_path, text):
    path = tmp_path / "some_segments.csv"
    path.write_text(text)
    return list(read_segments(path))


def test_official_layout(tmp_path):
    segments = read(
        tmp_path,
        "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=3, num_segs=3\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
        '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk"\n'
        '_-xyz_12345, 20.500, 30.500, "/m/03l9g"\n\n'
        'ab_30_000cd, 30.000, 40.000, ""\n',
    )
    assert segments == [
        Segment("--4gqARaEJE", 0.0, 10.0, ("/m/068hy", "/m/07q6cd_", "/m/0bt9lr", "/m/0jbk")),
        Segment("_-xyz_12345", 20.5, 30.5, ("/m/03l9g",)),
        Segment("ab_30_000cd", 30.0, 40.0, ()),
    ]


def test_lists_that_passed_through_other_programs(tmp_path):
    """A byte order mark, Windows line ends, no quotes, no spaces."""
    segments = read(tmp_path, "\ufeff# comment\r\nabcdefghijk,0,10,/m/1,/m/2\r\nbbcdefghijk,0,10,\r\n")
    assert [segment.mids for segment in segments] == [("/m/1", "/m/2"), ()]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("abcdefghijk, 0.000, 10.000", "expected `id, start_seconds"),
        ('abcdefghijk, zero, 10.000, "/m/1"', "must be seconds, found 'zero'"),
        ('abcdefghijk, 10.000, 10.000, "/m/1"', "which is empty"),
        ('abcdefghijk, -5, 10.000, "/m/1"', "which is empty"),
        ('abcdefghijk, 1_0, 20, "/m/1"', "must be seconds, found '1_0'"),
        (', 0, 10, "/m/1"', "the id is empty"),
        ('abc\x01efghijk, 0, 10, "/m/1"', "holds control characters"),
        ('abcdefghijk, 0, nan, "/m/1"', "must be seconds, found 'nan'"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, f'# comment\nbbcdefghijk, 0, 10, "/m/1"\n{row}\n')
    assert "some_segments.csv, line 3" in str(error.value)


def test_what_is_no_list(tmp_path):
    with pytest.raises(DataError, match="segment list not found"):
        list(read_segments(tmp_path / "absent.csv"))
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(DataError, match="not a segment list"):
        list(read_segments(tmp_path / "binary.csv"))
    with pytest.raises(DataError, match="not a segment list"):
        read(tmp_path, 'abcdefghijk, 0, 10, "/m/1\n')


def test_a_list_that_was_cut_off(tmp_path):
    """Without its labels the last row would be a clip of no class."""
    with pytest.raises(DataError, match="line 2: the list ends in the middle of a row"):
        read(tmp_path, 'bbcdefghijk, 0, 10, "/m/1"\nabcdefghijk, 0, 10, ')
    with pytest.raises(DataError, match="not a segment list"):
        read(tmp_path, 'bbcdefghijk, 0, 10, "/m/1"\nabcdefghijk, 0, 10, "/m/1')
    assert len(read(tmp_path, 'bbcdefghijk, 0, 10, "/m/1"\nabcdefghijk, 0, 10, "/m/2"')) == 2


def test_a_list_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=rf"segment list cannot be read: {tmp_path} \(Is a directory\)"):
        list(read_segments(tmp_path))


def test_an_id_may_begin_with_the_sign_of_comments(tmp_path):
    segments = read(tmp_path, '# comment\n "#bcdefghijk", 0, 10, "/m/1"\n  # comment\n')
    assert [segment.id for segment in segments] == ["#bcdefghijk"]
