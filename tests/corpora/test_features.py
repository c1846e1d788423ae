from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet

from audiotag.corpora.features import TICK_POWER, extract_features, extract_splits
from audiotag.corpora.stats import corpus_stats
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio, load_features
from audiotag.data.splits import read_statistics
from audiotag.errors import DataError
from audiotag.frontend import PRESETS, Frontend


def extract(folder, split, result, preset="ast128", num_jobs=1):
    manifest = IndexedManifest(folder.manifests / f"cuts_{split}.jsonl")
    extract_features(manifest, result, preset=preset, num_jobs=num_jobs)
    return manifest, IndexedManifest(result)


def archives(result):
    return {path.name: path.stat().st_mtime_ns for path in (result.parent / "archives").iterdir()}


@pytest.mark.parametrize("preset", PRESETS)
def test_stored_features_are_those_of_each_clip_alone(prepared, tmp_path, preset):
    plain, stored = extract(prepared, "train", tmp_path / "cuts_train.jsonl", preset)
    frontend = Frontend(preset)
    assert len(plain) == len(stored)
    for index in range(len(plain)):
        assert stored.id(index) == plain.id(index)
        np.testing.assert_array_equal(stored.labels(index), plain.labels(index))
        samples = torch.from_numpy(load_audio(plain.record(index)))[None]
        raw, _ = frontend.extract(samples, torch.tensor([samples.shape[1]]))
        # lilcom rounds to the nearest multiple of 2**-5; the rest is float32.
        difference = np.abs(load_features(stored.record(index)) - raw[0].numpy()).max()
        assert difference <= 2.0**TICK_POWER / 2 + 1e-4


def test_lhotse_reads_the_result(prepared, tmp_path):
    extract(prepared, "eval", tmp_path / "cuts_eval.jsonl", "icefall80")
    for cut in CutSet.from_jsonl_lazy(tmp_path / "cuts_eval.jsonl"):
        assert cut.has_features and cut.num_features == 80
        assert cut.load_features().shape == (cut.num_frames, 80)


def test_several_processes_give_the_same_bytes(prepared, tmp_path):
    contents = []
    for num_jobs in (1, 3):
        result = tmp_path / str(num_jobs) / "cuts_train.jsonl"
        extract(prepared, "train", result, num_jobs=num_jobs)
        files = sorted(path for path in (result.parent / "archives").iterdir() if path.suffix == ".lca")
        contents.append({path.name: path.read_bytes() for path in files})
        contents[-1]["cuts"] = result.read_text().replace(str(result.parent), "")
    assert contents[0] == contents[1]


def test_only_what_is_missing_or_has_changed_is_made_again(folder, tmp_path):
    clips = [folder.clip("train", f"clip_{number:06d}", seconds=0.2) for number in range(100)]
    folder.clip("eval", "eval_______")
    folder.prepare()
    result = tmp_path / "fbank" / "cuts_train.jsonl"
    _, stored = extract(folder, "train", result)
    first = archives(result)
    whole = [load_features(stored.record(index)) for index in range(100)]
    assert len(first) == 2 * 4
    extract(folder, "train", result)
    assert archives(result) == first

    shards = sorted(path for path in (result.parent / "archives").iterdir() if path.suffix == ".lca")
    os.truncate(shards[0], shards[0].stat().st_size - 1)
    shards[1].with_suffix(".jsonl").unlink()
    (result.parent / "archives" / f".{shards[0].stem}.12345.lca").write_bytes(b"left by a killed run")
    _, stored = extract(folder, "train", result)
    second = archives(result)
    assert set(second) == set(first)
    redone = {name.split("-")[1] for name in second if second[name] != first[name]}
    assert redone == {"00000000", "00000032"}
    for index in range(100):
        np.testing.assert_array_equal(load_features(stored.record(index)), whole[index])

    folder.wav("train/clip_000070.wav", seconds=0.2, subtype="FLOAT")
    os.utime(clips[70], ns=(0, 0))
    extract(folder, "train", result)
    third = archives(result)
    assert sorted(name.split("-")[1] for name in third if name not in second) == ["00000064"] * 2
    assert len(third) == 8
    extract(folder, "train", result.parent.parent / "other" / "cuts_train.jsonl", preset="icefall80")
    assert archives(result) == third


def test_a_killed_run_is_completed(folder):
    for number in range(200):
        folder.clip("train", f"clip_{number:06d}", seconds=1.0)
    folder.clip("eval", "eval_______")
    folder.prepare()
    (folder.root / "config.yaml").write_text("features: {preset: ast128}\n")
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "audiotag.bin.extract_features", "--config", "config.yaml", "--nj", "1"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    archive_dir = folder.data / "fbank" / "ast128" / "archives"
    process = subprocess.Popen(command, cwd=folder.root, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(archive_dir.glob("train-*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = folder.data / "fbank" / "ast128" / "cuts_train.jsonl"
    finished = {path.name for path in archive_dir.glob("train-*.jsonl")}
    assert 0 < len(finished) < 7 and not result.exists()
    before = archives(result)
    extract_splits(folder.data, preset="ast128")
    after = archives(result)
    assert all(after[name] == before[name] for name in finished)
    assert not list(archive_dir.glob(".*"))
    stored = IndexedManifest(result)
    assert len(stored) == 200
    assert load_features(stored.record(199)).shape == (98, 128)


def test_damage_after_stage_1_is_named(folder, tmp_path):
    path = folder.clip("train", "clip_______")
    folder.clip("eval", "eval_______")
    folder.prepare()
    path.write_bytes(b"")
    with pytest.raises(DataError, match=f"clip clip_______: cannot read {path}"):
        extract(folder, "train", tmp_path / "cuts_train.jsonl")
    assert not (tmp_path / "cuts_train.jsonl").exists()


def test_clips_without_a_whole_frame_are_named(folder, tmp_path):
    folder.clip("train", "clip_______", seconds=0.02)
    folder.clip("eval", "eval_______")
    folder.prepare(min_duration_s=0.0)
    with pytest.raises(DataError, match=r"clip clip_______: 320 samples .* corpus\.min_duration_s"):
        extract(folder, "train", tmp_path / "cuts_train.jsonl")


def test_a_split_that_is_gone_leaves_no_features(folder):
    for number in range(10):
        folder.clip("train", f"clip_{number:06d}", seconds=0.2)
    folder.clip("eval", "eval_______", seconds=0.2)
    folder.prepare(valid_share=0.3)
    extract_splits(folder.data, preset="ast128")
    fbank = folder.data / "fbank" / "ast128"
    assert {path.name for path in fbank.glob("*.jsonl")} == {
        f"cuts_{s}.jsonl" for s in ("train", "valid", "eval")
    }
    folder.prepare(valid_share=0.0)
    extract_splits(folder.data, preset="ast128")
    assert {path.name for path in fbank.glob("*.jsonl")} == {"cuts_train.jsonl", "cuts_eval.jsonl"}


def test_a_valid_that_is_eval_is_not_stored_twice(folder):
    """After a corpus with a valid split of its own, whose features go."""
    for number in range(10):
        folder.clip("train", f"clip_{number:06d}", seconds=0.2)
    folder.clip("eval", "eval_______", seconds=0.2)
    folder.prepare(valid_share=0.3)
    extract_splits(folder.data, preset="ast128")
    fbank = folder.data / "fbank" / "ast128"
    assert len(list((fbank / "archives").glob("valid-*"))) == 2
    folder.prepare(valid="eval")
    extract_splits(folder.data, preset="ast128")
    assert (fbank / "cuts_valid.jsonl").read_bytes() == (fbank / "cuts_eval.jsonl").read_bytes()
    assert {path.name.split("-")[0] for path in (fbank / "archives").iterdir()} == {"train", "eval"}
    corpus_stats(folder.data, "some", preset="ast128", storage="stored", target_frames=None)
    stats = read_statistics(folder.data, "some")
    assert stats["valid"] == stats["eval"] != stats["train"]
    folder.prepare(valid_share=0.3)
    extract_splits(folder.data, preset="ast128")
    assert len(IndexedManifest(fbank / "cuts_valid.jsonl")) == 3


def test_long_clips_do_not_share_a_batch(folder, tmp_path):
    """Memory stays bounded; the result does not depend on it."""
    for number, seconds in enumerate((0.3, 100.0, 0.2, 120.0, 0.4)):
        folder.clip("train", f"clip_{number:06d}", seconds=seconds)
    folder.clip("eval", "eval_______")
    folder.prepare()
    _, stored = extract(folder, "train", tmp_path / "cuts_train.jsonl")
    frames = [json.loads(line)["features"]["num_frames"] for line in (tmp_path / "cuts_train.jsonl").open()]
    assert frames == [28, 9998, 18, 11998, 38]
    assert load_features(stored.record(3)).shape == (11998, 128)
