from __future__ import annotations

import numpy as np
import pytest

from audiotag.corpora.segments import Segment, read_segments
from audiotag.corpora.synthetic import ID_ALPHABET
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


def test_the_official_evaluation_list_in_size_and_shape(tmp_path):
    """20,371 rows; ids begin with '-', contain '_', end in '_' and digits."""
    rng = np.random.default_rng(0)
    alphabet = np.array(list(ID_ALPHABET))
    ids = sorted({"".join(row) for row in alphabet[rng.integers(64, size=(20371, 11))]})
    assert len(ids) == 20371 and sum("_" in clip_id for clip_id in ids) > 2900
    rows = [
        f'{clip_id}, {30 * (i % 9)}.000, {30 * (i % 9) + 10}.000, "/m/a,/m/b"'
        for i, clip_id in enumerate(ids)
    ]
    assert [segment.id for segment in read(tmp_path, "# x\n" * 3 + "\n".join(rows))] == ids


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("abcdefghijk, 0.000, 10.000", "expected `id, start_seconds"),
        ('abcdefghijk, zero, 10.000, "/m/1"', "must be seconds, found 'zero'"),
        ('abcdefghijk, 10.000, 10.000, "/m/1"', "which is empty"),
        ('abcdefghijk, -5, 10.000, "/m/1"', "which is empty"),
        ('abcdefghijk, 0, nan, "/m/1"', "which is empty"),
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
