from __future__ import annotations

import hashlib

import numpy as np
import pytest
import soundfile
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import average_precision_score

from audiotag.corpora.segments import read_segments
from audiotag.corpora.synthetic import ID_ALPHABET, SOUNDS, synthesize
from audiotag.errors import ConfigError
from audiotag.frontend import Frontend
from audiotag.labels import LabelTable


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    dest = tmp_path_factory.mktemp("mini")
    synthesize(dest, seed=3, train_clips=240, eval_clips=80)
    return dest


def digests(dest):
    return {
        str(path.relative_to(dest)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(dest.rglob("*"))
        if path.is_file()
    }


def test_it_has_audiosets_layout(mini):
    table = LabelTable.read(mini / "class_labels_indices.csv")
    assert [label.mid for label in table] == [sound.mid for sound in SOUNDS]
    for split, count in (("train", 240), ("eval", 80)):
        path = mini / f"{split}_segments.csv"
        lines = path.read_text().splitlines()
        assert [line.startswith("#") for line in lines[:4]] == [True, True, True, False]
        assert f"num_ytids={count}," in lines[1]
        segments = list(read_segments(path))
        assert len(segments) == count == len(list((mini / "audio" / split).iterdir()))
        for segment in segments:
            assert 1 <= len(set(segment.mids)) == len(segment.mids) <= 3
            info = soundfile.info(mini / "audio" / split / f"{segment.id}.wav")
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert 2.0 <= info.duration <= 4.0
            assert segment.end_s == pytest.approx(info.duration)


def test_ids_look_like_youtubes(mini):
    ids = [
        segment.id for split in ("train", "eval") for segment in read_segments(mini / f"{split}_segments.csv")
    ]
    assert len(set(ids)) == 320
    assert all(len(clip_id) == 11 and set(clip_id) <= set(ID_ALPHABET) for clip_id in ids)
    for awkward in (lambda i: i[0] == "-", lambda i: i[0] == "_", lambda i: "_" in i[1:-1]):
        assert sum(map(awkward, ids)) >= 32


def test_a_clip_depends_on_seed_split_and_index_only(mini, tmp_path):
    synthesize(tmp_path / "again", seed=3, train_clips=10, eval_clips=4)
    again = digests(tmp_path / "again")
    wavs = [name for name in again if name.endswith(".wav")]
    assert len(wavs) == 14
    assert {name: digests(mini)[name] for name in wavs} == {name: again[name] for name in wavs}
    synthesize(tmp_path / "other", seed=4, train_clips=10, eval_clips=4)
    assert not set(digests(tmp_path / "other").values()) & {again[name] for name in wavs}


def test_an_interrupted_generation_is_completed(tmp_path):
    synthesize(tmp_path, seed=3, train_clips=6, eval_clips=2)
    whole = digests(tmp_path)
    missing, damaged, untouched = sorted((tmp_path / "audio" / "train").iterdir())[:3]
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:1000])
    (tmp_path / "train_segments.csv").unlink()
    time_before = untouched.stat().st_mtime_ns
    synthesize(tmp_path, seed=3, train_clips=6, eval_clips=2)
    assert digests(tmp_path) == whole
    assert untouched.stat().st_mtime_ns == time_before


def test_negative_numbers_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="0 or more"):
        synthesize(tmp_path, seed=-1)


def test_its_classes_can_be_told_apart(mini):
    """A linear classifier on crude statistics is far above the class prior, about 0.2."""
    table = LabelTable.read(mini / "class_labels_indices.csv")
    frontend = Frontend("ast128", normalize=False)

    def features_and_labels(split):
        rows, labels = [], []
        for segment in read_segments(mini / f"{split}_segments.csv"):
            samples, _ = soundfile.read(mini / "audio" / split / f"{segment.id}.wav", dtype="float32")
            wave = torch.from_numpy(samples)[None]
            raw = frontend.extract(wave, torch.tensor([len(samples)]))[0][0]
            lively = (raw[4:] - raw[:-4]).abs().mean(0)
            rows.append(torch.cat([raw.mean(0), raw.std(0), raw.amax(0), lively]).numpy())
            row = np.zeros(len(table))
            row[[table.index_of_mid[mid] for mid in segment.mids]] = 1
            labels.append(row)
        return np.array(rows), np.array(labels)

    x, y = features_and_labels("train")
    x_eval, y_eval = features_and_labels("eval")
    mean, std = x.mean(0), x.std(0) + 1e-6
    model = RidgeClassifier(alpha=300.0).fit((x - mean) / std, y)
    scores = model.decision_function((x_eval - mean) / std)
    assert average_precision_score(y_eval, scores, average="macro") > 0.5
    assert y_eval.mean() < 0.25
    assert (y.sum(0) >= 20).all() and (y_eval.sum(0) >= 5).all()
