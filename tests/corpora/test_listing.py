from __future__ import annotations

import pytest

from audiotag.corpora.listing import Part


@pytest.mark.parametrize(
    ("part", "file_s", "place"),
    [
        (Part(), 7.0, (0.0, None)),
        (Part(0.0, 5.0), 7.0, (0.0, 5.0)),
        (Part(2.0), 7.0, (2.0, 5.0)),
        (Part(2.0, 5.0), 7.0, (2.0, 3.0)),
        # Times in lists are rounded.
        (Part(2.0, 7.05), 7.0, (2.0, 5.0)),
        (Part(2.0, 7.5), 7.0, "outside its file: 2 s to 7.5 s of 7.000 s"),
        (Part(8.0), 7.0, "outside its file: 8 s to the end of 7.000 s"),
        (Part(7.0), 7.0, "outside its file: 7 s to the end of 7.000 s"),
        # A clip of a video, cut out or not.
        (Part(30.0, 40.0, True), 10.5, (0.0, None)),
        (Part(30.0, 40.0, True), 3.0, (0.0, None)),
        (Part(30.0, 40.0, True), 60.0, (30.0, 10.0)),
        (Part(30.0, 40.0, True), 39.5, (30.0, 9.5)),
        (Part(30.0, 40.0, True), 25.0, "longer than its segment: 25.000 s for 30 to 40 s"),
        (Part(0.0, 10.0, True), 10.9, (0.0, None)),
        (Part(0.0, 10.0, True), 11.5, (0.0, 10.0)),
    ],
)
def test_where_a_part_is_in_its_file(part, file_s, place):
    found = part.within(file_s)
    assert found == (place if isinstance(place, str) or place[1] is None else pytest.approx(place))
