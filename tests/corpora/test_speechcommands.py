"""Speech Commands' own layout: the official lists, ids of words, and lists that are not right."""

from __future__ import annotations

import shutil

import pytest

from audiotag.configcorpus import SpeechCommandsCorpus
from audiotag.corpora.speechcommands import prepare_speechcommands
from audiotag.errors import ConfigError, DataError
from tests.corpora.publishedcorpora import Manifests, make_speechcommands


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The corpus, which tests only read: 3 words x 10 speakers x 2 takes, two speakers in the lists."""
    return make_speechcommands(tmp_path_factory.mktemp("speech commands"))


@pytest.fixture
def corpus(made, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(made, tmp_path / "corpus")


def prepare(corpus, folder, **settings) -> Manifests:
    section = SpeechCommandsCorpus.model_validate({"dir": str(corpus), **settings})
    prepare_speechcommands(folder / "manifests", section)
    return Manifests(folder / "manifests")


def test_the_lists_are_valid_and_eval_and_all_else_is_train(made, tmp_path):
    manifests = prepare(made, tmp_path)
    assert manifests.classes() == ["no", "up", "yes"]
    assert {split: len(manifests.cuts(split)) for split in ("train", "valid", "eval")} == {
        "train": 48,
        "valid": 6,
        "eval": 6,
    }
    for split, speakers in (("valid", ["00000000"]), ("eval", ["00000001"])):
        assert sorted({clip.split("/")[1].split("_")[0] for clip in manifests.cuts(split)}) == speakers
    for split in ("train", "valid", "eval"):
        for clip, name in manifests.labels(split).items():
            assert clip.startswith(f"{name}/")
            assert manifests.cuts(split)[clip]["recording"]["sources"][0]["source"].endswith(f"/{clip}.wav")
    assert manifests.coverage()["notes"] == {"task": "single-label"}


def test_folders_that_are_no_words_are_passed_over_and_counted(corpus, tmp_path, caplog):
    caplog.set_level("INFO")
    (corpus / "yes" / "deeper").mkdir()
    shutil.copy(corpus / "yes" / "00000005_nohash_0.wav", corpus / "yes" / "deeper" / "a.wav")
    manifests = prepare(corpus, tmp_path)
    assert manifests.classes() == ["no", "up", "yes"] and len(manifests.cuts("train")) == 48
    assert "1 files of _background_noise_" in caplog.text
    assert "1 audio files that are not in the folder of a word" in caplog.text


def test_copies_stay(corpus, tmp_path):
    shutil.copy(corpus / "no/00000001_nohash_0.wav", corpus / "no/00000005_nohash_0.wav")
    manifests = prepare(corpus, tmp_path)
    assert len(manifests.cuts("train")) == 48
    assert manifests.coverage()["notes"]["clips whose audio another split has too"] == "1 of 48 of train"


def test_listed_files_that_are_missing_are_skipped_with_their_reason(corpus, tmp_path):
    (corpus / "up" / "00000000_nohash_1.wav").unlink()
    with (corpus / "testing_list.txt").open("a") as file:
        file.write("\nsheila/00000001_nohash_0.wav\r\nno/00000000_nohash_0.wav\n")
    manifests = prepare(corpus, tmp_path, max_skip=0.5)
    assert manifests.skipped("valid") == {
        "up/00000000_nohash_1": f"missing: no audio file up/00000000_nohash_1 in {corpus}",
        "no/00000000_nohash_0": "leak: the id is also listed for eval",
    }
    assert list(manifests.skipped("eval")) == ["sheila/00000001_nohash_0"]
    assert len(manifests.cuts("train")) == 48
    with pytest.raises(DataError, match=r"more than corpus\.max_skip = 5\.0% allows"):
        prepare(corpus, tmp_path)


def test_a_word_without_training_clips_is_named(corpus, tmp_path, caplog):
    shutil.copytree(corpus / "up", corpus / "wow")
    for path in (corpus / "wow").iterdir():
        if not path.name.startswith("00000001"):
            path.unlink()
    with (corpus / "testing_list.txt").open("a") as file:
        file.writelines(f"wow/{path.name}\n" for path in (corpus / "wow").iterdir())
    prepare(corpus, tmp_path)
    assert "1 of 4 classes have no training clip: wow" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("00000001_nohash_0.wav", r"line 2: expected <word>/<file>, found '00000001_nohash_0\.wav'"),
        ("a/b/c.wav", "line 2: expected <word>/<file>"),
        ("no/", "line 2: expected <word>/<file>"),
    ],
)
def test_a_line_that_is_not_right_is_named(corpus, tmp_path, line, message):
    (corpus / "validation_list.txt").write_text(f"no/00000000_nohash_0.wav\n{line}\n")
    with pytest.raises(DataError, match=message):
        prepare(corpus, tmp_path)


def test_what_cannot_work_is_refused(corpus, tmp_path):
    with pytest.raises(ConfigError, match=r"has a list of its own \(validation_list\.txt\)"):
        prepare(corpus, tmp_path, valid="eval")
    (corpus / "validation_list.txt").write_text("\n")
    with pytest.raises(DataError, match=r"validation_list\.txt lists no clips"):
        prepare(corpus, tmp_path)
    (corpus / "testing_list.txt").unlink()
    (corpus / "validation_list.txt").write_text("no/00000000_nohash_0.wav\n")
    with pytest.raises(
        DataError, match=r"testing_list\.txt; corpus\.dir must be the folder of Speech Commands"
    ):
        prepare(corpus, tmp_path)
    for word in ("yes", "no", "up"):
        shutil.rmtree(corpus / word)
    (corpus / "testing_list.txt").write_text("no/00000001_nohash_0.wav\n")
    with pytest.raises(DataError, match="has no folders of audio files, one for each word"):
        prepare(corpus, tmp_path)
