from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio
from audiotag.errors import ConfigError, DataError
from audiotag.labels import LabelTable
from tests.corpora.classes import MIDS


def test_clips_become_cuts(folder):
    folder.clip("train", "-abc_def-12", f"{MIDS[3]},{MIDS[0]}", seconds=0.7)
    folder.clip("train", "_bc__ef_123", "", rate=44100)
    folder.clip("eval", "Yabcdefghi_", MIDS[1], channels=2)
    folder.prepare()
    cuts = list(CutSet.from_jsonl_lazy(folder.manifests / "cuts_train.jsonl"))
    assert [cut.id for cut in cuts] == ["-abc_def-12", "_bc__ef_123"]
    assert [cut.supervisions[0].audio_event for cut in cuts] == ["3;0", ""]
    assert [cut.duration for cut in cuts] == [0.7, 0.5]
    assert all(len(cut.supervisions) == 1 for cut in cuts)
    assert all(Path(cut.recording.sources[0].source).is_absolute() for cut in cuts)
    assert cuts[1].sampling_rate == 44100 and cuts[1].load_audio().shape == (1, 22050)
    for split in ("train", "eval"):
        for cut in CutSet.from_jsonl_lazy(folder.manifests / f"cuts_{split}.jsonl"):
            assert cut.to_dict() == folder.cuts(split)[cut.id]
    [stereo] = CutSet.from_jsonl_lazy(folder.manifests / "cuts_eval.jsonl")
    assert stereo.load_audio().shape == (2, 8000)
    table = LabelTable.read(folder.manifests / "labels.csv")
    assert table == LabelTable.read(folder.corpus / "class_labels_indices.csv")


def test_labels_go_by_mid(folder):
    """Another order in the label list gives other indices for the same MIDs."""
    (folder.corpus / "class_labels_indices.csv").write_text(
        "index,mid,display_name\n" + "\n".join(f"{i},{mid},x{i}" for i, mid in enumerate(reversed(MIDS)))
    )
    folder.clip("train", "aaaaaaaaaaa", f"{MIDS[0]},{MIDS[2]}")
    folder.clip("eval", "bbbbbbbbbbb")
    folder.prepare()
    record = folder.cuts("train")["aaaaaaaaaaa"]
    assert record["supervisions"][0]["custom"]["audio_event"] == "3;1"


def test_what_cannot_be_used_is_listed_with_its_reason(folder):
    folder.clip("train", "good_______")
    folder.listed("train", "missing____")
    os.truncate(folder.clip("train", "cut_off____"), 5000)
    os.truncate(folder.clip("train", "header_only"), 44)
    folder.clip("train", "zero_bytes_").write_bytes(b"")
    folder.clip("train", "text_______").write_text("not a sound")
    folder.clip("train", "short______", seconds=0.05)
    folder.clip("train", "-silent____").write_bytes(silent_wav(folder))
    folder.clip("train", "unknown____", f"{MIDS[0]},/m/new")
    folder.listed("train", "good_______", MIDS[1])
    folder.clip("train", "both_splits", MIDS[2])
    folder.listed("eval", "both_splits", MIDS[2])
    folder.clip("eval", "eval_clip__")
    folder.prepare()
    reasons = folder.skipped("train")
    assert {clip_id: reason.partition(":")[0] for clip_id, reason in reasons.items()} == {
        "missing____": "missing",
        "cut_off____": "truncated",
        "header_only": "truncated",
        "zero_bytes_": "empty",
        "text_______": "unreadable",
        "short______": "too short",
        "-silent____": "silent",
        "unknown____": "unknown label",
        "good_______": "duplicate",
        "both_splits": "leak",
    }
    assert "/m/new" in reasons["unknown____"]
    assert folder.skipped("eval") == {}
    assert list(folder.cuts("train")) == ["good_______"]
    assert list(folder.cuts("eval")) == ["both_splits", "eval_clip__"]

    train = folder.coverage()["train"]
    assert (train["listed"], train["present"], train["seconds"]) == (11, 1, 0.5)
    assert train["skipped"]["truncated"] == 2 and sum(train["skipped"].values()) == 10
    assert train["classes"][MIDS[0]] == {"listed": 9, "present": 1, "seconds": 0.5}
    assert train["classes"][MIDS[2]] == {"listed": 1, "present": 0, "seconds": 0.0}
    assert folder.coverage()["eval"]["classes"][MIDS[2]] == {"listed": 1, "present": 1, "seconds": 0.5}


def silent_wav(folder):
    path = folder.wav("silence.wav")
    content = path.read_bytes()
    path.unlink()
    return content[:44] + bytes(len(content) - 44)


def test_too_many_skipped_clips_stop_the_stage(folder):
    for number in range(9):
        folder.clip("train", f"train-clip{number}")
        folder.clip("eval", f"eval_-clip{number}")
    damaged = folder.clip("eval", "damaged____")
    os.truncate(damaged, 3000)
    folder.prepare(max_skip=0.1)
    with pytest.raises(DataError) as error:
        folder.prepare(max_skip=0.09)
    message = str(error.value)
    assert "eval: 1 of 10 listed clips (10.0%) cannot be used" in message
    assert "corpus.max_skip = 9.0%" in message
    assert f"damaged____ ({damaged}: truncated" in message
    assert str(folder.manifests / "skipped_eval.csv") in message


def test_a_file_longer_than_its_segment_is_cut_or_refused(folder):
    for clip_id, seconds in (
        ("trimmed____", 10.5),
        ("whole_video", 60.0),
        ("ends_early_", 39.5),
        ("what_is_it_", 25.0),
    ):
        folder.listed("train", clip_id, start=30.0)
        folder.wav(f"{clip_id}.wav", seconds=seconds)
    folder.clip("eval", "eval_______")
    folder.prepare()
    parts = {clip_id: (cut["start"], cut["duration"]) for clip_id, cut in folder.cuts("train").items()}
    assert parts == {"trimmed____": (0.0, 10.5), "whole_video": (30.0, 10.0), "ends_early_": (30.0, 9.5)}
    assert folder.skipped("train") == {"what_is_it_": "longer than its segment: 25.000 s for 30 to 40 s"}
    manifest = IndexedManifest(folder.manifests / "cuts_train.jsonl")
    record = next(r for r in map(manifest.record, range(3)) if r["id"] == "whole_video")
    expected, _ = soundfile.read(folder.audio / "whole_video.wav", dtype="float32")
    np.testing.assert_array_equal(load_audio(record), expected[480000:640000])


def test_a_valid_split_that_cannot_be_had_is_refused(folder):
    for number in range(3):
        folder.clip("train", f"clip_{number:06d}", MIDS[number])
    folder.clip("eval", "eval_______")
    with pytest.raises(DataError, match=r"set corpus\.valid_share to 0, or list more clips"):
        folder.prepare(valid_share=0.3)


def test_a_format_without_a_decoder_says_what_to_do(folder):
    folder.clip("train", "good_______")
    folder.listed("eval", "phone______")
    folder.clip("eval", "eval_______")
    (folder.audio / "phone______.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(500))
    folder.prepare()
    assert folder.skipped("eval") == {
        "phone______": "unreadable: no decoder for m4a here; convert it to flac or wav"
    }


def test_a_split_without_a_usable_clip_stops_the_stage_at_any_limit(folder):
    folder.clip("train", "good_______")
    folder.listed("eval", "missing____")
    with pytest.raises(DataError, match=r"1 of 1 listed clips .* cannot be used, which leaves none"):
        folder.prepare(max_skip=1.0)


def test_a_failed_run_leaves_earlier_manifests(folder):
    paths = [folder.clip(split, f"{split:_<11}") for split in ("train", "eval")]
    folder.prepare()
    before = (folder.manifests / "cuts_train.jsonl").read_bytes()
    paths[0].unlink()
    with pytest.raises(DataError, match="1 missing"):
        folder.prepare(max_skip=0.5)
    assert (folder.manifests / "cuts_train.jsonl").read_bytes() == before


def test_valid_is_held_out_of_train(folder):
    rng = np.random.default_rng(0)
    for number in range(60):
        folder.clip("train", f"clip-_{number:05d}", ",".join(rng.choice(MIDS, size=2, replace=False)))
    folder.clip("eval", "eval_______")
    folder.prepare(valid_share=0.25)
    train, valid = folder.cuts("train"), folder.cuts("valid")
    assert len(train) + len(valid) == 60 and not set(train) & set(valid)
    assert len(valid) == pytest.approx(15, abs=3)
    coverage = folder.coverage()
    for mid in MIDS:
        in_train, in_valid = (coverage[split]["classes"][mid] for split in ("train", "valid"))
        assert in_train["listed"] == in_train["present"] and in_valid["listed"] == in_valid["present"]
        share = in_valid["present"] / (in_valid["present"] + in_train["present"])
        assert share == pytest.approx(0.25, abs=0.12)
    assert [coverage[split]["listed"] for split in ("train", "valid")] == [len(train), len(valid)]

    assert (folder.manifests / "valid_ids.txt").read_text().split() == list(valid)

    folder.prepare(valid_share=0.25)
    assert folder.cuts("valid") == valid
    folder.prepare(valid_share=0.25, valid_seed=1)
    assert set(folder.cuts("valid")) != set(valid)
    folder.prepare(valid_share=0.0)
    assert len(folder.cuts("train")) == 60
    assert {path.name for path in folder.manifests.glob("*valid*")} == set()


def test_several_lists_make_one_split(folder):
    folder.clip("train", "one________")
    folder.clip("eval", "two________")
    folder.write_lists()
    (folder.corpus / "more.csv").write_text(f'three______, 0.000, 10.000, "{MIDS[1]}"\n')
    folder.wav("Ythree______.wav")
    folder.prepare(train_lists=["train_segments.csv", "more.csv"])
    assert list(folder.cuts("train")) == ["one________", "three______"]


def test_a_corpus_that_is_not_there(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"corpus\.dir is not set"):
        folder.prepare(dir=None)
    with pytest.raises(DataError, match=r"corpus folder not found: .*absent"):
        folder.prepare(dir=str(tmp_path / "absent"))
    with pytest.raises(DataError, match="label list not found"):
        folder.prepare(labels="absent.csv")
    with pytest.raises(DataError, match="segment list not found"):
        folder.prepare(eval_lists=["absent.csv"])
    with pytest.raises(DataError, match="train: the corpus lists no clips"):
        folder.prepare()
