"""What stage 1 makes of lists: one sound in one split, where valid comes from, what is counted."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import soundfile

from audiotag.configcorpus import Preparation
from audiotag.corpora.preparation import Listed, Part, prepare_splits
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio
from audiotag.errors import ConfigError, DataError
from audiotag.labels import Label, LabelTable
from audiotag.seal import unsealed

RATE = 16000
TABLE = LabelTable([Label(i, mid, f"class {i}") for i, mid in enumerate(("/m/a", "/m/b", "/m/c"))])


class Corpus:
    """Lists and sounds that a test makes up, and what stage 1 leaves of them."""

    def __init__(self, root):
        self.root = root
        self.manifests = root / "data" / "manifests"
        self.listed = {"train": [], "eval": []}

    def sound(self, name, seconds=0.5, level=0.1, seed=None, **options):
        """A file of noise; the same seed gives the same samples."""
        path = self.root / name
        rng = np.random.default_rng(list(name.encode()) if seed is None else seed)
        # In steps of 16-bit audio, so that all lossless formats hold the same.
        samples = np.round(level * rng.standard_normal(round(seconds * RATE)) * 32768) / 32768
        soundfile.write(path, np.clip(samples, -1, 1 - 2**-15), RATE, **options)
        return str(path)

    def clip(self, split, clip_id, path=None, labels=(0,), part=Part(), problem=None, **options):  # noqa: B008
        path = self.sound(f"{clip_id}.wav", **options) if path is None else path
        self.listed.setdefault(split, []).append(Listed(clip_id, path, labels, part, problem))
        return path

    def prepare(self, notes=None, num_jobs=1, **settings):
        settings = Preparation(**{"valid_share": 0.0, **settings})
        prepare_splits(self.manifests, self.listed, TABLE, settings, num_jobs=num_jobs, notes=notes)

    def cuts(self, split):
        manifest = IndexedManifest(self.manifests / f"cuts_{split}.jsonl")
        return {manifest.id(i): manifest.record(i) for i in range(len(manifest))}

    def skipped(self, split):
        with (self.manifests / f"skipped_{split}.csv").open(newline="") as file:
            return {row["id"]: row["reason"] for row in csv.DictReader(file)}

    def coverage(self):
        return unsealed(json.loads((self.manifests / "coverage.json").read_text()))


@pytest.fixture
def corpus(tmp_path):
    """A corpus with a good clip in each split."""
    corpus = Corpus(tmp_path)
    corpus.clip("train", "train-0")
    corpus.clip("eval", "eval-0")
    return corpus


def test_copies_within_a_split(corpus):
    """Two of the same sound, whatever they are called and however they are packed."""
    corpus.clip("train", "as-flac", corpus.sound("a.flac", seed=1), labels=(1,))
    corpus.clip("train", "as-wav", corpus.sound("b.wav", seed=1), labels=(1,))
    corpus.clip("train", "as-24-bit", corpus.sound("c.wav", seed=1, subtype="PCM_24"), labels=(1,))
    corpus.clip("train", "as-float", corpus.sound("d.wav", seed=1, subtype="FLOAT"), labels=(1, 2))
    corpus.clip("train", "other", corpus.sound("e.wav", seed=2), labels=(1,))
    corpus.clip("train", "longer", corpus.sound("f.wav", seed=1, seconds=0.6), labels=(1,))
    corpus.prepare()
    assert list(corpus.cuts("train")) == ["train-0", "as-flac", "other", "longer"]
    assert corpus.skipped("train") == {
        "as-wav": "duplicate: same audio as as-flac",
        "as-24-bit": "duplicate: same audio as as-flac",
        "as-float": "duplicate: same audio as as-flac, which has other labels",
    }
    corpus.prepare(duplicates="keep")
    assert len(corpus.cuts("train")) == 7 and corpus.skipped("train") == {}


@pytest.mark.parametrize("duplicates", ["skip", "keep"])
def test_no_sound_is_in_two_splits(corpus, duplicates):
    for split in ("train", "valid", "eval"):
        corpus.clip(split, f"{split}-all", corpus.sound(f"{split}-all.flac", seed=1))
        corpus.clip(split, "same-id", seed=split.encode()[0])
    for split in ("train", "valid"):
        corpus.clip(split, f"{split}-two", corpus.sound(f"{split}-two.wav", seed=2))
    corpus.prepare(duplicates=duplicates)
    assert list(corpus.cuts("eval")) == ["eval-0", "eval-all", "same-id"]
    assert list(corpus.cuts("valid")) == ["valid-two"]
    assert list(corpus.cuts("train")) == ["train-0"]
    assert corpus.skipped("valid") == {
        "valid-all": "leak: same audio as eval clip eval-all",
        "same-id": "leak: the id is also listed for eval",
    }
    assert corpus.skipped("train") == {
        "train-all": "leak: same audio as eval clip eval-all",
        "train-two": "leak: same audio as valid clip valid-two",
        "same-id": "leak: the id is also listed for eval",
    }


def test_parts_of_one_recording(corpus):
    long = corpus.sound("long.wav", seconds=10.0)
    shutil.copy(long, corpus.root / "copy.wav")
    soundfile.write(corpus.root / "cut-out.flac", soundfile.read(long)[0][8 * RATE : 9 * RATE], RATE)
    corpus.clip("eval", "eval-2-4", long, part=Part(2.0, 4.0))
    corpus.clip("eval", "eval-8-9", long, part=Part(8.0, 9.0))
    corpus.clip("train", "before", long, part=Part(0.0, 2.0))
    corpus.clip("train", "across", str(corpus.root / "copy.wav"), part=Part(3.5, 6.0))
    corpus.clip("train", "inside", long, part=Part(2.5, 3.0))
    corpus.clip("train", "between", long, part=Part(4.0, 8.0))
    corpus.clip("train", "between-again", str(corpus.root / "copy.wav"), part=Part(4.0, 8.0))
    corpus.clip("train", "overlapping-in-train", long, part=Part(5.0, 8.0))
    corpus.clip("train", "whole", long)
    corpus.clip("train", "cut-out", str(corpus.root / "cut-out.flac"))
    corpus.clip("train", "beyond", long, part=Part(9.5, 12.0))
    corpus.clip("train", "instant", long, part=Part(0.0, 0.05))
    corpus.prepare(max_skip=0.2)
    cuts = corpus.cuts("train")
    assert list(cuts) == ["train-0", "before", "between", "overlapping-in-train"]
    assert (cuts["between"]["start"], cuts["between"]["duration"]) == (4.0, 4.0)
    expected, _ = soundfile.read(long, start=4 * RATE, stop=8 * RATE, dtype="float32")
    np.testing.assert_array_equal(load_audio(cuts["between"]), expected)
    reasons = corpus.skipped("train")
    assert reasons.pop("beyond").startswith("outside its file")
    assert reasons.pop("instant") == "too short: 0.050 s, corpus.min_duration_s is 0.1"
    assert reasons == {
        "across": "leak: same audio as eval clip eval-2-4",
        "inside": "leak: same audio as eval clip eval-2-4",
        "whole": "leak: same audio as eval clip eval-8-9",
        "cut-out": "leak: same audio as eval clip eval-8-9",
        "between-again": "duplicate: same audio as between",
    }


def test_a_part_is_measured_by_itself(corpus):
    """The file as a whole has sound; one of its parts is silent, another is soft."""
    path = corpus.root / "day.wav"
    rng = np.random.default_rng(0)
    level = np.repeat([0.0, 0.01, 0.1], 2 * RATE)
    soundfile.write(path, level * np.sign(rng.standard_normal(6 * RATE)), RATE)
    for clip_id, start in (("night", 0.0), ("dawn", 2.0), ("noon", 4.0)):
        corpus.clip("eval", clip_id, str(path), part=Part(start, start + 2.0))
    corpus.prepare(max_skip=0.5)
    assert corpus.skipped("eval") == {"night": "silent: all samples are the same"}
    loudness = corpus.coverage()["eval"]["loudness_dbfs"]
    assert loudness["min"] == pytest.approx(-40.0, abs=0.1)
    assert loudness["max"] == pytest.approx(-20.0, abs=0.3)
    lines = (corpus.manifests / "probes.jsonl").read_text()
    corpus.prepare(max_skip=0.5)  # now from the cache
    assert corpus.coverage()["eval"]["loudness_dbfs"] == loudness
    assert (corpus.manifests / "probes.jsonl").read_text() == lines


def test_silent_clips_are_kept_on_request(corpus):
    for number in range(3):
        for split in ("train", "eval"):
            corpus.clip(split, f"{split}-silence-{number}", level=0.0, labels=(1,))
    with pytest.raises(DataError, match=r"3 of 4 listed clips \(75\.0%\) cannot be used, .*: 3 silent"):
        corpus.prepare()
    corpus.prepare(silent="keep")
    assert len(corpus.cuts("train")) == len(corpus.cuts("eval")) == 4
    loudness = corpus.coverage()["train"]["loudness_dbfs"]
    assert loudness["min"] == loudness["max"] == pytest.approx(-20.0, abs=0.3)
    corpus.listed["train"] = [clip for clip in corpus.listed["train"] if "silence" in clip.id]
    corpus.prepare(silent="keep")
    assert set(corpus.coverage()["train"]["loudness_dbfs"].values()) == {None}


def test_copies_do_not_count_as_a_broken_corpus(corpus):
    for number in range(5):
        corpus.clip("train", f"copy-{number}", corpus.listed["train"][0].path)
        corpus.clip("train", f"leak-{number}", corpus.listed["eval"][0].path)
    corpus.prepare(max_skip=0.0)
    train = corpus.coverage()["train"]
    assert (train["listed"], train["present"]) == (11, 1)
    assert train["skipped"] == {"leak": 5, "duplicate": 5}
    corpus.clip("train", "missing", "")
    with pytest.raises(
        DataError, match=r"train: 1 of 12 listed clips \(8\.3%\) .*: 1 missing; the first are"
    ):
        corpus.prepare(max_skip=0.08)
    corpus.listed["train"] = [clip for clip in corpus.listed["train"] if clip.id.startswith("leak")]
    with pytest.raises(DataError, match=r"train: 5 of 5 .*, which leaves none: 5 leak"):
        corpus.prepare()


def test_coverage(corpus):
    corpus.clip("train", "loud", seconds=1.5, level=0.2, labels=(0, 2))
    corpus.clip("train", "lost", "", labels=(2, 2))
    corpus.clip("train", "strange", problem="unknown label: x", labels=(1,))
    corpus.prepare(max_skip=0.5, notes={"task": "multi-label"})
    coverage = corpus.coverage()
    assert list(coverage) == ["train", "eval", "notes"]
    assert coverage["notes"] == {"task": "multi-label"}
    train = coverage["train"]
    assert (train["listed"], train["present"], train["seconds"]) == (4, 2, 2.0)
    assert train["skipped"] == {"missing": 1, "unknown label": 1}
    assert train["duration_s"] == {"min": 0.5, "median": 1.0, "mean": 1.0, "max": 1.5}
    assert train["loudness_dbfs"]["min"] == pytest.approx(-20.0, abs=0.2)
    assert train["loudness_dbfs"]["max"] == pytest.approx(-14.0, abs=0.2)
    assert train["classes"] == {
        "/m/a": {"listed": 2, "present": 2, "seconds": 2.0},
        "/m/b": {"listed": 1, "present": 0, "seconds": 0.0},
        "/m/c": {"listed": 2, "present": 1, "seconds": 1.5},
    }
    assert coverage["eval"]["skipped"] == {}


def test_valid_is_the_evaluation_set_on_request(corpus):
    corpus.clip("eval", "eval-1", labels=(2,))
    corpus.clip("eval", "eval-2", "", labels=(2,))
    corpus.prepare(valid="eval", valid_share=0.5, max_skip=0.5)
    assert corpus.cuts("valid") == corpus.cuts("eval") and len(corpus.cuts("valid")) == 2
    assert corpus.skipped("valid") == corpus.skipped("eval") == {"eval-2": "missing"}
    coverage = corpus.coverage()
    assert coverage["valid"] == {**coverage["eval"], "same_as": "eval"}
    assert not (corpus.manifests / "valid_ids.txt").exists()


def test_valid_is_the_first_tenth_of_the_evaluation_list_on_request(corpus):
    """By the lines of the list, whether the clips are there or not; they stay in eval."""
    corpus.clip("eval", "eval-1", "", labels=(2,))
    for number in range(2, 38):
        corpus.clip("eval", f"eval-{number}", labels=(number % 3,))
    corpus.prepare(valid="eval_tenth", max_skip=0.5)
    assert list(corpus.cuts("valid")) == ["eval-0", "eval-2"]
    assert corpus.skipped("valid") == {"eval-1": "missing"}
    assert len(corpus.cuts("eval")) == 37
    valid = corpus.coverage()["valid"]
    assert (valid["part_of"], valid["listed"], valid["present"]) == ("eval", 3, 2)
    assert "same_as" not in valid
    assert valid["classes"]["/m/c"] == {"listed": 2, "present": 1, "seconds": 0.5}


def test_a_first_tenth_without_clips_is_refused(corpus):
    with pytest.raises(DataError, match="none of the first 0 of 1 clips of eval can be used"):
        corpus.prepare(valid="eval_tenth")


def test_valid_that_the_corpus_lists(corpus):
    corpus.clip("valid", "valid-0")
    for number in range(20):
        corpus.clip("train", f"more-{number}")
    corpus.prepare(valid_share=0.5)
    assert list(corpus.cuts("valid")) == ["valid-0"] and len(corpus.cuts("train")) == 21
    assert list(corpus.coverage()) == ["train", "valid", "eval", "notes"]
    assert not (corpus.manifests / "valid_ids.txt").exists()
    with pytest.raises(ConfigError, match=r"corpus\.valid is eval, but the corpus lists 1 clips for valid"):
        corpus.prepare(valid="eval")
    corpus.listed["valid"] = []  # a list that names none is no list
    corpus.prepare(valid_share=0.5)
    assert len(corpus.cuts("valid")) == pytest.approx(10, abs=2)


def test_the_same_audio_is_held_out_together(corpus):
    recordings = [corpus.sound(f"recording-{number}.wav", seconds=4.0) for number in range(12)]
    for number, path in enumerate(recordings):
        for start in range(3):
            corpus.clip("train", f"{number}-{start}", path, part=Part(float(start), start + 1.0))
        shutil.copy(path, path + ".flac.wav")
        corpus.clip("train", f"{number}-again", path + ".flac.wav", part=Part(0.0, 1.0))
        corpus.clip("train", f"{number}-alone", seconds=0.3)
    sides = set()
    for seed in range(5):
        corpus.prepare(duplicates="keep", valid_share=0.4, valid_seed=seed)
        of_clip = {clip_id: split for split in ("train", "valid") for clip_id in corpus.cuts(split)}
        assert len(of_clip) == 61
        for number in range(12):
            of_recording = {of_clip[f"{number}-{part}"] for part in (0, 1, 2, "again")}
            assert len(of_recording) == 1
            sides |= of_recording
        assert len(corpus.cuts("valid")) == pytest.approx(24, abs=6)
        ids = (corpus.manifests / "valid_ids.txt").read_text().splitlines()
        assert ids == list(corpus.cuts("valid"))
    assert sides == {"train", "valid"}


def test_ids_that_no_list_can_hold(corpus):
    corpus.clip("eval", "two\nlines", corpus.listed["eval"][0].path)
    corpus.clip("eval", "", corpus.listed["eval"][0].path)
    corpus.clip("eval", "latin\udce9", corpus.listed["eval"][0].path)
    corpus.prepare(max_skip=0.75)
    assert corpus.coverage()["eval"]["skipped"] == {"bad id": 3}


def test_integers_in_a_float_file_are_noticed(corpus, caplog):
    path = corpus.root / "loud.wav"
    samples = np.random.default_rng(0).integers(-20000, 20000, RATE).astype(np.float32)
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    corpus.clip("train", "loud", str(path))
    corpus.prepare()
    [message] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith("train: 1 of 2 clips are far above full scale, up to 20000 in ")
    assert str(path) in message
