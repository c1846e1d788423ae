"""The label table."""

from __future__ import annotations

import pytest

from audiotag.errors import DataError
from audiotag.labels import Label, LabelTable


def test_reads_and_writes_the_official_layout(tmp_path):
    path = tmp_path / "class_labels_indices.csv"
    path.write_text(
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n', "utf-8"
    )
    table = LabelTable.read(path)
    assert table[1] == Label(1, "/m/05zppz", "Male speech, man speaking")
    assert table.index_of_mid["/m/09x0r"] == 0
    table.write(tmp_path / "again.csv")
    assert LabelTable.read(tmp_path / "again.csv") == table
    assert LabelTable.from_rows(table.to_rows()) == table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mid,index,display_name\n", "the first line must be index,mid,display_name"),
        ("", "the first line must be"),
        ("index,mid,display_name\n1,/m/a,A\n", "indices must count 0, 1, 2"),
        ("index,mid,display_name\n0,/m/a,A\n1,/m/a,B\n", "a MID occurs twice"),
        ("index,mid,display_name\nx,/m/a,A\n", "not a label list"),
        ("index,mid,display_name\n0,/m/a\n", "not a label list"),
    ],
)
def test_a_bad_list_is_refused_with_its_name(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        LabelTable.read(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(DataError, match="label list not found"):
        LabelTable.read(tmp_path / "none.csv")
