"""Reading a user's CSV: spellings that work, and every mistake with file and line."""

from __future__ import annotations

import pytest

from audiotag.corpora.csvlist import read_list
from audiotag.corpora.entries import Entry
from audiotag.errors import DataError


def write(folder, content: str | bytes):
    path = folder / "my list.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        "path,labels,start,end,split\na.wav,x;y,1,2.5,test\n",
        "\ufeffpath,labels,start,end,split\r\na.wav,x;y,1,2.5,eval\r\n\r\n,,,,\r\n",
        "split,end,notes,labels,start,path\nTEST,2.5,loud,x;y,1,a.wav",
        "Path , LABELS,start,end,split,,\n a.wav , x ; y;; x, 1.0 , 2.50 ,Eval,,\n",
        '"path","labels","start","end","split"\n"a.wav","x;y","1","2.5","eval"\n',
        "path\tlabels\tstart\tend\tsplit\na.wav\tx;y\t1\t2.5\teval\n",
        "path,labels,start,end,split\n./b/../a.wav,x;y,1e0,+2.5,eval\n",
    ],
)
def test_spellings_that_mean_the_same(tmp_path, content):
    expected = Entry(str(tmp_path / "a.wav"), ("x", "y"), "eval", 1.0, 2.5)
    assert read_list(write(tmp_path, content)) == [expected]


def test_what_may_be_left_out(tmp_path):
    content = 'path,labels,start,end,split\n/far/a b.wav,"x, y",,,\nä.wav,,3,\nc.wav,z\n'
    assert read_list(write(tmp_path, content)) == [
        Entry("/far/a b.wav", ("x, y",), None, 0.0, None),
        Entry(str(tmp_path / "ä.wav"), (), None, 3.0, None),
        Entry(str(tmp_path / "c.wav"), ("z",), None, 0.0, None),
    ]


HEADER = "path,labels,start,end,split\n"


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["the first line must name the columns path and labels, found: nothing"]),
        ("a.wav,dog\n", ["the first line must name the columns path and labels, found: 'a.wav, dog'"]),
        ("path,label\na,b\n", ["found: 'path, label'; is 'label' meant for it?"]),
        ("filepath,labels\na,b\n", ["found: 'filepath, labels'; is 'filepath' meant for it?"]),
        ("path;labels\na.wav;x\n", ["separate columns with commas or tabs, labels with semicolons"]),
        ("path,labels,path\na,b,c\n", ["the first line names the column path more than once"]),
        (HEADER + "a.wav,x,0,1,train,dog\n", ["line 2: 6 fields, but the header names 5 columns", "quotes"]),
        ("path,labels\nok.wav,x\na.wav,dog, barking\n", ["line 3: 3 fields, but the header names 2"]),
        (HEADER + "a.wav\n", ["line 2: 1 fields, but the header names 5 columns"]),
        (HEADER + ",x\n", ["line 2: the path is empty"]),
        (HEADER + "\na.wav,x,2,1\n", ["line 3: the clip goes from 2 s to 1 s, which is empty"]),
        (HEADER + "a.wav,x,,0\n", ["line 2: the clip goes from 0 s to 0 s, which is empty"]),
        (HEADER + "a.wav,x,-1,1\n", ["line 2: start must be seconds, 0 or more, found '-1'"]),
        (HEADER + "a.wav,x,0,1:30\n", ["line 2: end must be seconds, 0 or more, found '1:30'"]),
        (HEADER + "a.wav,x,nan,1\n", ["line 2: start must be seconds, 0 or more, found 'nan'"]),
        (HEADER + "a.wav,x,0,inf\n", ["line 2: end must be seconds, 0 or more, found 'inf'"]),
        (HEADER + "a.wav,x,0,1,trian\n", ["line 2: unknown split 'trian', expected one of train"]),
        (HEADER + '"a.wav,x,0,1\n', ["not a CSV row", "check the quotes"]),
        (HEADER + '"a".wav,x,0,1\n', ["line 2: not a CSV row"]),
        ((HEADER + "a.wav,x\nb.wav,caf\xe9\n").encode("latin-1"), ["line 3: not UTF-8", "iconv"]),
        ((HEADER + "a.wav,x\n").encode("utf-16"), ["line 1: not UTF-8"]),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path, content, parts):
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_list(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_columns_that_are_not_used_are_named(tmp_path, caplog):
    with caplog.at_level("INFO"):
        read_list(write(tmp_path, "speaker,path,labels,fold\n1,a.wav,x,2\n"))
    assert "columns that are not used: speaker, fold" in caplog.text
