"""ESC-50's own layout: folds, classes, the choices of what is validated on, and lists that are not right."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile

from audiotag.configcorpus import Esc50Corpus
from audiotag.corpora.esc50 import prepare_esc50
from audiotag.errors import DataError
from tests.corpora.publishedcorpora import Manifests, make_esc50


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The corpus, which tests only read: 5 folds x 4 classes x 2 sources x 2 takes."""
    return make_esc50(tmp_path_factory.mktemp("ESC-50 master"))


@pytest.fixture
def corpus(made, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(made, tmp_path / "corpus")


def prepare(corpus, folder, **settings) -> Manifests:
    prepare_esc50(folder / "manifests", Esc50Corpus.model_validate({"dir": str(corpus), **settings}))
    return Manifests(folder / "manifests")


def edit(corpus, before, after):
    path = corpus / "meta" / "esc50.csv"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize("fold", [1, 5])
def test_a_fold_is_eval_and_the_other_four_are_train(made, tmp_path, fold):
    manifests = prepare(made, tmp_path, fold=fold, valid="eval")
    train, evaluated = manifests.cuts("train"), manifests.cuts("eval")
    assert (len(train), len(evaluated)) == (64, 16)
    assert {clip[0] for clip in evaluated} == {str(fold)}
    assert {clip[0] for clip in train} == set("12345") - {str(fold)}
    assert manifests.cuts("valid") == evaluated
    coverage = manifests.coverage()
    assert coverage["valid"]["same_as"] == "eval"
    assert coverage["notes"] == {"task": "single-label", "fold": fold}


def test_classes_are_in_the_order_of_the_targets_and_each_clip_has_its_own(made, tmp_path):
    manifests = prepare(made, tmp_path)
    assert manifests.classes() == ["z_sound", "y_sound", "x_sound", "w_sound"]
    for split in ("train", "valid", "eval"):
        for clip, name in manifests.labels(split).items():
            assert name == manifests.classes()[int(clip.rpartition("-")[2])]


def test_esc10_takes_its_classes_alone_and_counts_them_from_0(corpus, tmp_path):
    lines = (corpus / "meta/esc50.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        row[4] = str(row[2] in ("1", "3"))
    (corpus / "meta/esc50.csv").write_text("\n".join([lines[0], *map(",".join, rows)]))
    manifests = prepare(corpus, tmp_path, esc10=True, valid="eval")
    assert manifests.classes() == ["y_sound", "w_sound"]
    assert len(manifests.cuts("train")) == 32
    assert set(manifests.labels("eval").values()) == {"y_sound", "w_sound"}
    assert manifests.labels("eval")["1-1030-A-3"] == "w_sound"


@pytest.mark.parametrize(("fold", "other"), [(2, "3"), (5, "1")])
def test_a_whole_fold_may_be_held_out(made, tmp_path, fold, other):
    manifests = prepare(made, tmp_path, fold=fold, valid="fold")
    assert {clip[0] for clip in manifests.cuts("valid")} == {other}
    assert len(manifests.cuts("train")) == 48 and len(manifests.cuts("valid")) == 16
    assert "same_as" not in manifests.coverage()["valid"]


def test_clips_of_one_source_are_held_out_together(made, tmp_path):
    manifests = prepare(made, tmp_path, valid_share=0.3)
    train, valid = manifests.cuts("train"), manifests.cuts("valid")
    assert len(train) + len(valid) == 64 and len(valid) > 10
    sources_of_train, sources_of_valid = ({clip.split("-")[1] for clip in clips} for clips in (train, valid))
    assert not sources_of_train & sources_of_valid


def test_copies_leaks_and_silence_stay_and_are_counted(corpus, tmp_path, caplog):
    shutil.copy(corpus / "audio/1-1000-A-0.wav", corpus / "audio/2-2000-A-0.wav")
    shutil.copy(corpus / "audio/3-3000-A-0.wav", corpus / "audio/4-4000-A-0.wav")
    soundfile.write(corpus / "audio/5-5000-A-0.wav", np.zeros(8000), 16000)
    manifests = prepare(corpus, tmp_path, fold=1, valid="eval")
    assert (len(manifests.cuts("train")), len(manifests.cuts("eval"))) == (64, 16)
    assert manifests.coverage()["notes"]["clips whose audio another split has too"] == "1 of 64 of train"
    assert "are kept, as the corpus is published: 1 of 64 of train" in caplog.text
    strict = prepare(corpus, tmp_path / "strict", fold=1, valid="eval", leaks="skip", duplicates="skip")
    assert len(strict.cuts("train")) == 62
    assert strict.skipped("train")["2-2000-A-0"] == "leak: same audio as eval clip 1-1000-A-0"


def test_a_missing_file_is_listed_with_its_reason(corpus, tmp_path):
    (corpus / "audio" / "3-3000-B-0.wav").unlink()
    manifests = prepare(corpus, tmp_path)
    path = corpus / "audio" / "3-3000-B-0.wav"
    assert manifests.skipped("train") == {"3-3000-B-0": f"missing: {path}"}
    with pytest.raises(DataError, match=r"cannot be used, more than corpus\.max_skip"):
        prepare(corpus, tmp_path, max_skip=0.0)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("filename,fold", "file,fold", "no column filename; expected filename,fold,target"),
        (".wav,1,0,z_sound", ".wav,6,0,z_sound", r"line 2: fold must be 1 to 5, found '6'"),
        (".wav,1,0,z_sound", ".wav,1,x,z_sound", "line 2: target must be the number of a class"),
        (".wav,1,0,z_sound", ".wav,1,0,dog", "target 0 is dog in one row and z_sound in another"),
        (".wav,1,0,z_sound,True", ".wav,1,0,z_sound,yes", "line 2: esc10 must be True or False"),
        (".wav,1,0,z_sound,True", ".wav,1,0,,True", "line 2: expected a value for each column"),
        (".wav,1,0,z_sound,True", ".wav,1", "line 2: expected a value for each column"),
        ("1-1000-A-0.wav", '"1-1000', "not a list of clips in CSV"),
    ],
)
def test_a_list_that_is_not_right_is_named_with_the_line(corpus, tmp_path, before, after, message):
    edit(corpus, before, after)
    with pytest.raises(DataError, match=message) as caught:
        prepare(corpus, tmp_path)
    assert str(corpus / "meta" / "esc50.csv") in str(caught.value)


def test_a_fold_without_clips_cannot_be_held_out(corpus, tmp_path):
    path = corpus / "meta" / "esc50.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("2-")]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"has no clips in the fold that corpus\.valid: fold validates on"):
        prepare(corpus, tmp_path, valid="fold")


def test_another_folder_is_refused(corpus, tmp_path):
    with pytest.raises(DataError, match="must be the folder of ESC-50, with meta/ and audio/"):
        prepare(corpus / "meta", tmp_path)
    (corpus / "meta" / "esc50.csv").write_text("filename,fold,target,category,esc10,src_file,take\n")
    with pytest.raises(DataError, match="lists no clips"):
        prepare(corpus, tmp_path)
