"""The column `unlabelled` of a user's list: classes of which nobody knows whether a clip has them."""

from __future__ import annotations

import csv
import logging

import numpy as np
import pytest

from audiotag.corpora.csvlist import read_list
from audiotag.corpora.features import extract_splits
from audiotag.corpora.stats import corpus_stats, load_sampling_weights
from audiotag.data.index import IndexedManifest
from audiotag.errors import DataError
from tests.corpora.owncorpus import OwnCorpus


@pytest.fixture
def corpus(tmp_path) -> OwnCorpus:
    return OwnCorpus(tmp_path)


def listed(corpus, *rows, header="path,labels,unlabelled,split"):
    """The corpus with a clip for each row of its list."""
    for row in rows:
        corpus.clip(row.split(",")[0], seconds=0.2, rate=8000)
    return str(corpus.list(header, *rows))


def fields(corpus, split):
    """Labels and unlabelled classes of each clip as its cut holds them."""
    return {clip: cut["supervisions"][0]["custom"] for clip, cut in corpus.cuts(split).items()}


ROWS = ["a.wav,cat;dog,,train", "b.wav,,owl; cat ;owl,train", "c.wav,owl,dog,eval", "d.wav,,,eval"]


def test_it_has_the_syntax_of_labels(corpus):
    entries = read_list(corpus.list("path,labels,unlabelled,split", *ROWS))
    assert [entry.unlabelled for entry in entries] == [(), ("owl", "cat"), ("dog",), ()]
    with pytest.raises(DataError, match="line 2: control characters in the unlabelled"):
        read_list(corpus.list("path,labels,unlabelled", "a.wav,cat,d\x01og"))
    with pytest.raises(DataError, match="names the column unlabelled more than once"):
        read_list(corpus.list("path,labels,unlabelled,Unlabelled", "a.wav,cat,,"))


def test_from_the_list_to_the_features(corpus, caplog):
    """Classes in alphabetical order: cat, dog, owl. Cuts without any have no such field, as before."""
    with caplog.at_level(logging.INFO):
        corpus.prepare(dir=listed(corpus, *ROWS))
    assert fields(corpus, "train") == {
        "a": {"audio_event": "0;1"},
        "b": {"audio_event": "", "unlabelled": "2;0"},
    }
    assert fields(corpus, "eval") == {"c": {"audio_event": "2", "unlabelled": "1"}, "d": {"audio_event": ""}}
    assert "unlabelled: of 2 of 4 clips it is not known whether they have some of 3 classes" in caplog.text
    data = corpus.manifests.parent
    extract_splits(data, preset="icefall80")
    stored = IndexedManifest(data / "fbank" / "icefall80" / "cuts_train.jsonl")
    found = {stored.id(index): stored.unlabelled(index).tolist() for index in range(len(stored))}
    assert found == {"a": [], "b": [2, 0]}


def test_copies_of_the_audio_keep_it(corpus):
    corpus.prepare(dir=listed(corpus, *ROWS), audio_copy="flac")
    assert fields(corpus, "train")["b"]["unlabelled"] == "2;0"


def test_clips_that_contradict_themselves_or_name_unknown_classes_are_skipped(corpus):
    rows = [*ROWS, "e.wav,cat;owl,dog;owl,train", "f.wav,cat,dgo,train", "g.wav,cat,wolf,train"]
    corpus.prepare(dir=listed(corpus, *rows))
    assert corpus.skipped("train") == {
        "e": "contradiction: owl in labels and in unlabelled",
        "f": "unknown label: dgo (nearest: dog)",
        "g": "unknown label: wolf (nothing like it in the label list)",
    }


def test_a_listed_class_may_have_no_clip(corpus):
    """The classes are inferred from labels alone, unless there is a list of them; names and MIDs are one."""
    corpus.list("index,mid,display_name", "0,/m/c,cat", "1,/m/d,dog", "2,/m/w,wolf", name="classes.csv")
    rows = ["a.wav,cat,wolf;/m/d,train", "b.wav,dog,,eval", "c.wav,/m/c,cat,train"]
    corpus.prepare(dir=listed(corpus, *rows), labels="classes.csv")
    assert fields(corpus, "train") == {"a": {"audio_event": "0", "unlabelled": "2;1"}}
    assert corpus.skipped("train") == {"c": "contradiction: /m/c in labels and in unlabelled"}


def test_nothing_else_depends_on_it(corpus):
    """Held-out clips, counts and sampling weights are those of a list without the column."""
    rows = [f"{i:02d}.wav,{('cat', 'dog', 'cat;dog', '')[i % 4]}" for i in range(40)]
    unlabelled = ["dog", "cat", "", "cat;dog"]
    results = []
    for with_column in (False, True):
        lines = [f"{row},{unlabelled[i % 4]}" if with_column else row for i, row in enumerate(rows)]
        header = "path,labels,unlabelled" if with_column else "path,labels"
        corpus.prepare(dir=listed(corpus, *lines, header=header), valid_share=0.2)
        data = corpus.manifests.parent
        corpus_stats(data, "some", preset="icefall80", storage="on_the_fly", target_frames=None)
        train = IndexedManifest(corpus.manifests / "cuts_train.jsonl")
        assert (len(train.unlabelled_ids) > 0) == with_column
        with (data / "stats" / "some" / "label_counts.csv").open(newline="") as file:
            counts = list(csv.DictReader(file))
        results.append((corpus.ids(), counts, load_sampling_weights(data, "some", train).tolist()))
    assert results[0] == results[1]
    assert np.count_nonzero(results[0][2]) < len(results[0][2])
