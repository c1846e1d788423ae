"""Stage 1 on a user's own corpus: real files of many formats, both layouts, splits, classes."""

from __future__ import annotations

import logging

import pytest

from audiotag.errors import ConfigError, DataError
from tests.corpora.owncorpus import OwnCorpus

# name, and how it is written
FORMATS = {
    "wav/8k mono.wav": {"rate": 8000},
    "wav/44k stereo.wav": {"rate": 44100, "channels": 2},
    "wav/float.wav": {"rate": 48000, "subtype": "FLOAT"},
    "flac/24 bit.flac": {"rate": 32000, "subtype": "PCM_24"},
    "ogg/vorbis.ogg": {"rate": 22050},
    "mp3/song.MP3": {"rate": 16000, "format": "MP3"},
    "aiff/other.aif": {"rate": 16000, "format": "AIFF"},
}


@pytest.fixture
def corpus(tmp_path) -> OwnCorpus:
    return OwnCorpus(tmp_path)


@pytest.fixture
def labelled(corpus) -> OwnCorpus:
    """Forty clips of two classes and a list of them."""
    names = [f"audio/clip {number}.wav" for number in range(40)]
    for name in names:
        corpus.clip(name, seconds=0.2, rate=8000)
    corpus.list("path,labels", *(f"{name},{'cat' if i % 2 else 'dog'}" for i, name in enumerate(names)))
    return corpus


def test_files_of_many_formats_by_a_list(corpus):
    for name, options in FORMATS.items():
        corpus.clip(name, **options)
    rows = [f"{name},{name.split('/')[0]};any,{'eval' if 'wav' in name else ''}" for name in FORMATS]
    corpus.prepare(dir=str(corpus.list("path,labels,split", *rows)))
    assert corpus.ids() == {
        "train": {"flac/24 bit", "ogg/vorbis", "mp3/song", "aiff/other"},
        "eval": {"wav/8k mono", "wav/44k stereo", "wav/float"},
    }
    cuts = corpus.cuts("train") | corpus.cuts("eval")
    for name, options in FORMATS.items():
        cut = cuts[name.rpartition(".")[0]]
        assert cut["recording"]["sampling_rate"] == options["rate"]
        assert cut["recording"]["sources"][0]["source"] == str(corpus.root / name)
        assert cut["duration"] == pytest.approx(0.4, abs=0.15 if "mp3" in name else 1e-3)
    assert cuts["wav/44k stereo"]["channel"] == [0, 1]
    assert corpus.labels_of("train")["flac/24 bit"] == ["flac", "any"]


def test_the_same_files_by_their_folders(corpus, caplog):
    for name, options in FORMATS.items():
        corpus.clip(name, **options)
    corpus.clip("wav/deep/er/one.wav")
    corpus.clip(".trash/old.wav")
    corpus.clip("wav/._8k mono.wav")
    corpus.clip("stray.wav")
    (corpus.root / "wav" / "notes.txt").write_text("not audio")
    (corpus.root / "empty class").mkdir()
    (corpus.root / "linked").symlink_to(corpus.clip("../elsewhere/linked.wav").parent)
    (corpus.root / "flac" / "circle").symlink_to(corpus.root)
    with caplog.at_level(logging.INFO):
        corpus.prepare(eval_share=0.5)
    found = corpus.labels_of("train") | corpus.labels_of("eval")
    expected = {name.rpartition(".")[0]: [name.split("/")[0]] for name in FORMATS}
    assert found == {**expected, "wav/deep/er/one": ["wav"], "linked/linked": ["linked"]}
    assert "ignored 2 hidden files, 1 .txt files, 1 audio files outside a class' folder" in caplog.text
    assert corpus.notes()["task"] == "single-label"


def test_folders_of_splits_above_those_of_classes(corpus):
    for split in ("train", "Val", "test"):
        for name in ("cat", "dog"):
            corpus.clip(f"{split}/{name}/1.wav")
    corpus.prepare()
    assert corpus.ids() == {
        "train": {"train/cat/1", "train/dog/1"},
        "valid": {"Val/cat/1", "Val/dog/1"},
        "eval": {"test/cat/1", "test/dog/1"},
    }
    assert corpus.labels_of("eval") == {"test/cat/1": ["cat"], "test/dog/1": ["dog"]}


def test_a_class_that_is_named_like_a_split_beside_others(corpus, caplog):
    for number in range(3):
        corpus.clip(f"train/{number}.wav")
        corpus.clip(f"tram/{number}.wav")
    corpus.prepare(eval_share=0.4)
    assert "folders named like splits (train) beside others (tram): all are taken for classes" in caplog.text
    assert {labels[0] for labels in corpus.labels_of("train").values()} == {"train", "tram"}


def test_parts_of_files(corpus):
    corpus.clip("long.wav", seconds=3.0)
    corpus.clip("long.flac", seconds=3.0)
    rows = [
        "long.wav,a,0,1.5,train",
        "long.wav,b,1.5,,eval",
        "long.flac,a,,,train",
        "long.flac,b,0.25,3.02,train",
    ]
    corpus.prepare(dir=str(corpus.list("path,labels,start,end,split", *rows)))
    places = {
        clip: (cut["start"], cut["duration"])
        for split in ("train", "eval")
        for clip, cut in corpus.cuts(split).items()
    }
    assert places == {
        "long.wav_0_1500": (0.0, 1.5),
        "long.wav_1500_end": (1.5, 1.5),
        "long.flac": (0.0, 3.0),
        "long.flac_250_3020": (0.25, 2.75),
    }


def test_parts_of_a_file_stay_together_in_a_drawn_split(corpus):
    rows = []
    for number in range(12):
        corpus.clip(f"{number}.wav", seconds=1.0, rate=8000)
        rows += [f"{number}.wav,{'ab'[number % 2]},{start / 5},{start / 5 + 0.2}" for start in range(5)]
    corpus.prepare(dir=str(corpus.list("path,labels,start,end", *rows)), eval_share=0.3)
    files = {split: {clip.split("_")[0] for clip in ids} for split, ids in corpus.ids().items()}
    assert not files["train"] & files["eval"]
    assert len(files["eval"]) in (3, 4) and len(corpus.ids()["eval"]) == 5 * len(files["eval"])


def test_parts_that_are_not_there_are_skipped(corpus):
    corpus.clip("a.wav", seconds=1.0)
    rows = ["a.wav,x,0,0.4,eval", "a.wav,x,0.4,0.8,", "a.wav,x,0.5,2,", "a.wav,x,4,5,"]
    corpus.prepare(dir=str(corpus.list("path,labels,start,end,split", *rows)))
    assert {clip: why.split(":")[0] for clip, why in corpus.skipped("train").items()} == {
        "a_500_2000": "outside its file",
        "a_4000_5000": "outside its file",
    }


def test_rows_that_cannot_be_used_are_listed_with_reasons(corpus, caplog):
    for name in ("one.wav", "two.wav", "three.wav"):
        corpus.clip(name)
    (corpus.root / "classes.txt").write_text("\ufeffDog\n\nCat\n", encoding="utf-8")
    corpus.list(
        "path,labels,split",
        "one.wav,Dog,eval",
        "two.wav,Cat,",
        "./two.wav,Dog,",
        "away.wav,Dog,",
        "three.wav,Cat;dgo,",
    )
    corpus.prepare(list="list.csv", labels="classes.txt")
    assert corpus.skipped("train") == {
        "two": "duplicate: the id is listed more than once; the first row counts",
        "away": f"missing: {corpus.root}/away.wav",
        "three": "unknown label: dgo (nearest: Dog)",
    }
    assert corpus.labels_of("train") == {"two": ["Cat"]}
    assert "1 of 5 rows list a clip again and are skipped: put all labels" in caplog.text
    with pytest.raises(DataError, match=r"train: .* listed clips .* cannot be used"):
        corpus.prepare(list="list.csv", labels="classes.txt", max_skip=0.05)


def test_names_that_a_manifest_cannot_hold_are_skipped(corpus):
    corpus.clip("cats/good.wav")
    corpus.clip("cats/better.wav")
    corpus.clip("cats/late.wav").rename(corpus.root / "cats" / "caf\udce9.wav")
    corpus.prepare(eval_share=0.4)
    assert {**corpus.skipped("train"), **corpus.skipped("eval")} == {
        "cats/caf\\xe9": "bad name: the path is not UTF-8; rename the file"
    }


def test_files_that_differ_by_extension_keep_it_in_their_ids(corpus):
    for name in ("a/x.wav", "a/x.flac", "a/y.wav"):
        corpus.clip(name)
    corpus.prepare(dir=str(corpus.list("path,labels,split", "a/x.wav,l,", "a/x.flac,l,", "a/y.wav,l,eval")))
    assert corpus.ids() == {"train": {"a/x.wav", "a/x.flac"}, "eval": {"a/y"}}


def test_files_outside_the_folder(corpus, tmp_path):
    corpus.clip("../other place/a.wav")
    corpus.clip("b.wav")
    outside = tmp_path / "other place" / "a.wav"
    corpus.prepare(dir=str(corpus.list("path,labels,split", "../other place/a.wav,l,", "b.wav,l,eval")))
    assert corpus.ids()["train"] == {str(outside)[1:-4]}
    corpus.prepare(dir=str(corpus.list("path,labels,split", f"{outside},l,", "b.wav,l,eval")))
    assert corpus.ids()["train"] == {str(outside)[1:-4]}


def test_a_list_in_a_folder_of_its_own(corpus):
    """Its paths count from that folder, the list of classes from the corpus'."""
    for name in ("audio/a.wav", "audio/b.wav"):
        corpus.clip(name)
    (corpus.root / "lists").mkdir()
    corpus.list("path,labels,split", "../audio/a.wav,x,", "../audio/b.wav,x,eval", name="lists/all.csv")
    (corpus.root / "classes.txt").write_text("x\n")
    corpus.prepare(list="lists/all.csv", labels="classes.txt")
    assert [len(ids) for ids in corpus.ids().values()] == [1, 1]


def test_eval_is_a_stratified_share_that_does_not_depend_on_the_order(labelled):
    labelled.prepare(list="list.csv", eval_share=0.25)
    first = labelled.ids()
    drawn = labelled.labels_of("eval")
    assert sorted(labels[0] for labels in drawn.values()) == ["cat"] * 5 + ["dog"] * 5
    header, *rows = (labelled.root / "list.csv").read_text().splitlines()
    labelled.list(header, *reversed(rows))
    labelled.prepare(list="list.csv", eval_share=0.25)
    assert labelled.ids() == first
    labelled.prepare(list="list.csv", eval_share=0.25, valid_seed=1)
    assert labelled.ids() != first


def test_clips_that_are_not_there_are_not_drawn(labelled):
    lines = (labelled.root / "list.csv").read_text().splitlines()
    labelled.list(*lines, *(f"away {number}.wav,cat" for number in range(40)))
    labelled.prepare(list="list.csv", eval_share=0.5)
    assert labelled.skipped("eval") == {} and len(labelled.skipped("train")) == 40
    assert len(labelled.ids()["eval"]) == 20


def test_named_splits_are_left_alone(labelled):
    lines = (labelled.root / "list.csv").read_text().splitlines()
    splits = ["split"] + ["train"] * 20 + ["validation"] * 8 + [""] * 12
    labelled.list(*(f"{line},{split}" for line, split in zip(lines, splits, strict=True)))
    labelled.prepare(list="list.csv", eval_share=0.5, valid_share=0.2)
    ids = labelled.ids()
    # Only rows without a split may become eval, and a valid split that is named needs no other.
    assert {int(clip.split()[-1]) for clip in ids["eval"]} < set(range(28, 40))
    assert {int(clip.split()[-1]) for clip in ids["valid"]} == set(range(20, 28))
    assert len(ids["eval"]) == 6 and len(ids["train"]) == 26
    # All rows have a split, none is eval: it comes from train.
    splits = ["split"] + ["train"] * 32 + ["dev"] * 8
    labelled.list(*(f"{line},{split}" for line, split in zip(lines, splits, strict=True)))
    labelled.prepare(list="list.csv", eval_share=0.25)
    assert {split: len(ids) for split, ids in labelled.ids().items()} == {"train": 24, "valid": 8, "eval": 8}


@pytest.mark.parametrize(
    ("labels", "task", "said"),
    [
        (["a", "b", "a", "b"], "single-label", "every clip has exactly one label"),
        (["a", "b;a", "a", "b"], "multi-label", "of 4 clips, 1 have several labels and 0 none"),
        (["a", "", "a", " ; "], "multi-label", "of 4 clips, 0 have several labels and 2 none"),
        (["a;a", "b", "a", "b; "], "single-label", "every clip has exactly one label"),
    ],
)
def test_the_task_is_detected_and_said(corpus, caplog, labels, task, said):
    for number in range(4):
        corpus.clip(f"{number}.wav")
    rows = [f"{number}.wav,{text},{'eval' if number > 1 else ''}" for number, text in enumerate(labels)]
    with caplog.at_level(logging.INFO):
        corpus.prepare(dir=str(corpus.list("path,labels,split", *rows)))
    assert corpus.notes()["task"] == task
    assert f"task: {task}" in caplog.text and said in caplog.text


def test_audio_sets_labels_by_mid_or_name(corpus):
    (corpus.root / "classes.csv").write_bytes(
        b"\xef\xbb\xbfindex,mid,display_name\r\n0,/m/09x0r,Speech\r\n"
        b'1,/m/05zppz,"Male speech, man speaking"\r\n'
    )
    for name in ("a.wav", "b.wav", "c.wav"):
        corpus.clip(name)
    corpus.list(
        "path,labels,split",
        'a.wav,"Male speech, man speaking;/m/09x0r",',
        "b.wav,/m/05zppz;Male speech,",
        "c.wav,Speech,eval",
    )
    corpus.prepare(list="list.csv", labels="classes.csv")
    assert corpus.labels_of("train") == {"a": ["Male speech, man speaking", "Speech"]}
    assert corpus.skipped("train") == {"b": "unknown label: Male speech (nearest: Speech)"}
    assert (corpus.manifests / "labels.csv").read_text() == (
        'index,mid,display_name\n0,/m/09x0r,Speech\n1,/m/05zppz,"Male speech, man speaking"\n'
    )


def test_given_classes_that_cannot_be_told_apart_or_read(corpus):
    for name in ("a.wav", "b.wav", "c.wav"):
        corpus.clip(name)
    corpus.list("path,labels,split", "a.wav,Bell,", "b.wav,/m/1,", "c.wav,/m/2,eval")
    (corpus.root / "twins.csv").write_text("index,mid,display_name\n0,/m/1,Bell\n1,/m/2,Bell\n")
    corpus.prepare(list="list.csv", labels="twins.csv")
    assert corpus.skipped("train") == {
        "a": "unknown label: Bell (the name of several classes; write the MID)"
    }
    for content, message in {
        b"Dog\n Dog \n": "the class 'Dog' is listed more than once",
        b"\n \n": "lists no classes",
        b"caf\xe9\n": "is not a text file in UTF-8",
    }.items():
        (corpus.root / "classes.txt").write_bytes(content)
        with pytest.raises(DataError, match=message):
            corpus.prepare(list="list.csv", labels="classes.txt")
    (corpus.root / "classes.csv").write_text("Dog\nCat\n")
    with pytest.raises(DataError, match=r"classes\.csv: the first line must be index,mid,display_name"):
        corpus.prepare(list="list.csv", labels="classes.csv")


def test_inferred_classes_are_written_sorted_and_twins_named(corpus, caplog):
    for name in ("a.wav", "b.wav"):
        corpus.clip(name)
    corpus.prepare(
        dir=str(corpus.list("path,labels,split", "a.wav,Dog bark;cat;dog_bark,", 'b.wav,"bird, small",eval'))
    )
    assert (corpus.manifests / "labels.csv").read_text().splitlines() == [
        "index,mid,display_name",
        "0,Dog bark,Dog bark",
        '1,"bird, small","bird, small"',
        "2,cat,cat",
        "3,dog_bark,dog_bark",
    ]
    assert "differ only by case, blanks or signs: Dog bark | dog_bark" in caplog.text
    assert "1 of 4 classes have no training clip: bird, small" in caplog.text


def test_a_file_with_parts_in_two_splits_is_named(corpus, caplog):
    corpus.clip("a.wav", seconds=2.0)
    corpus.list("path,labels,start,end,split", "a.wav,x,0,1,train", "a.wav,x,1,2,eval")
    corpus.prepare(list="list.csv")
    assert f"1 files have parts in several splits, such as {corpus.root}/a.wav" in caplog.text


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"dir": None}, ConfigError, "corpus.dir is not set"),
        ({"dir": "/nowhere"}, DataError, "corpus not found: /nowhere"),
        ({"list": "absent.csv"}, DataError, "list of clips not found: "),
        ({"list": "audio"}, DataError, "is a folder; corpus.list names a CSV file"),
        ({"list": "list.csv", "labels": "absent.txt"}, DataError, "label list not found: "),
        ({"list": "list.csv", "eval_share": 0.0}, DataError, "corpus.eval_share is 0"),
        ({"list": "list.csv", "eval_share": 0.01}, None, None),
    ],
)
def test_settings_that_cannot_work(labelled, settings, error, message):
    if error is None:
        labelled.prepare(**settings)
        assert len(labelled.ids()["eval"]) >= 1
        return
    with pytest.raises(error) as caught:
        labelled.prepare(**settings)
    assert message in str(caught.value)


def test_a_file_as_dir_has_no_list_in_it(labelled):
    with pytest.raises(ConfigError, match=r"corpus\.list = list\.csv has no meaning"):
        labelled.prepare(dir=str(labelled.root / "list.csv"), list="list.csv")


def test_corpora_without_enough(corpus):
    with pytest.raises(DataError, match="no audio files in folders named by their class; found no files"):
        corpus.prepare()
    corpus.clip("a.wav")
    with pytest.raises(DataError, match="found 1 audio files outside a class' folder"):
        corpus.prepare()
    path = str(corpus.list("path,labels"))
    with pytest.raises(DataError, match=r"if list\.csv lists the clips.* --set corpus\.list=list\.csv"):
        corpus.prepare()
    with pytest.raises(DataError, match=r"list\.csv lists no clips"):
        corpus.prepare(dir=path)
    corpus.list("path,labels", "a.wav,")
    with pytest.raises(DataError, match="the corpus has no labels"):
        corpus.prepare(dir=path)
    corpus.list("path,labels", "a.wav,x")
    with pytest.raises(DataError, match="none can be held out without taking a label's last one"):
        corpus.prepare(dir=path)
    corpus.list("path,labels,split", "a.wav,x,eval")
    with pytest.raises(DataError, match="no clip is left to train on"):
        corpus.prepare(dir=path)
