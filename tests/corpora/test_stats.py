from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from audiotag.corpora.features import extract_splits
from audiotag.corpora.stats import class_balanced_weights, corpus_stats, load_sampling_weights, load_stats
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio
from audiotag.data.splits import read_coverage, read_statistics
from audiotag.errors import DataError
from audiotag.frontend import Frontend

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "ast" / "sampler.json").read_text())


def columns(samples):
    return np.array([label for sample in samples for label in sample], dtype=np.int64), np.cumsum(
        [0, *map(len, samples)]
    )


def test_weights_agree_with_the_reference():
    label_ids, label_starts = columns(REFERENCE["samples"])
    np.testing.assert_array_equal(np.bincount(label_ids), REFERENCE["class_counts"])
    np.testing.assert_allclose(
        class_balanced_weights(label_ids, label_starts), REFERENCE["weights"], rtol=1e-12
    )


def test_clips_without_labels_have_no_weight():
    weights = class_balanced_weights(*columns([[0], [], [1, 0], []]))
    assert (weights > 0).tolist() == [True, False, True, False]


@pytest.mark.parametrize("target_frames", [64, 20])
def test_mean_and_deviation_are_those_of_the_padded_features(prepared, tmp_path, target_frames):
    link(prepared, tmp_path)
    corpus_stats(
        tmp_path, "some", preset="ast128", storage="on_the_fly", target_frames=target_frames, num_jobs=2
    )
    for split, stats in read_statistics(tmp_path, "some").items():
        manifest = IndexedManifest(prepared.manifests / f"cuts_{split}.jsonl")
        rows = []
        for index in range(len(manifest)):
            wave = torch.from_numpy(load_audio(manifest.record(index)))[None]
            raw = (
                Frontend("ast128").extract(wave, torch.tensor([wave.shape[1]]))[0][0].numpy()[:target_frames]
            )
            rows.append(np.pad(raw, ((0, target_frames - len(raw)), (0, 0))))
        values = np.stack(rows).astype(np.float64)
        assert stats["mean"] == pytest.approx(values.mean(), rel=1e-9)
        assert stats["std"] == pytest.approx(values.std(), rel=1e-9)
        assert stats["num_values"] == values.size
        assert stats["num_clips"] == stats["of_clips"] == len(manifest)
        assert stats["target_frames"] == target_frames


def test_every_split_is_measured_and_joins_the_coverage(prepared, tmp_path):
    link(prepared, tmp_path)
    options = {"preset": "beats128", "storage": "on_the_fly", "target_frames": None}
    assert read_coverage(tmp_path, "some") == prepared.coverage()
    corpus_stats(tmp_path, "some", **options)
    coverage = read_coverage(tmp_path, "some")
    assert read_coverage(tmp_path) == prepared.coverage()
    for split in ("train", "valid", "eval"):
        features = coverage[split].pop("features")
        assert features["num_clips"] == features["of_clips"] == coverage[split]["present"]
    assert coverage == prepared.coverage()
    assert load_stats(tmp_path, "some") == read_coverage(tmp_path, "some")["train"]["features"]
    files = {path.name: path.read_bytes() for path in (tmp_path / "stats" / "some").glob("*.[jc]s*")}
    corpus_stats(tmp_path, "some", **options, num_jobs=3)
    assert {name: (tmp_path / "stats" / "some" / name).read_bytes() for name in files} == files
    assert len(files) == 2


def test_stored_features_and_no_fixed_length(prepared, tmp_path):
    link(prepared, tmp_path)
    extract_splits(tmp_path, preset="icefall80")
    results = []
    for storage in ("stored", "on_the_fly"):
        corpus_stats(tmp_path, "some", preset="icefall80", storage=storage, target_frames=None)
        results.append(load_stats(tmp_path, "some"))
    assert results[0]["num_values"] == results[1]["num_values"]
    assert results[0]["mean"] == pytest.approx(results[1]["mean"], abs=1e-3)
    assert results[0]["std"] == pytest.approx(results[1]["std"], abs=1e-3)
    train = IndexedManifest(prepared.manifests / "cuts_train.jsonl")
    frames = sum(round(float(duration) * 100) for duration in train.durations)
    assert results[0]["num_values"] == pytest.approx(80 * frames, rel=0.01)


def test_label_counts(prepared, tmp_path):
    link(prepared, tmp_path)
    corpus_stats(tmp_path, "some", preset="ast128", storage="on_the_fly", target_frames=64)
    with (tmp_path / "stats" / "some" / "label_counts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    coverage = prepared.coverage()
    assert [row["display_name"] for row in rows] == [f"Class, number {i}" for i in range(4)]
    for split in ("train", "valid", "eval"):
        present = [coverage[split]["classes"][row["mid"]]["present"] for row in rows]
        assert [int(row[split]) for row in rows] == present


def test_weights_follow_the_ids(prepared, tmp_path):
    """A manifest in another order, and a part of it, get the weights of their own clips."""
    link(prepared, tmp_path)
    corpus_stats(tmp_path, "some", preset="ast128", storage="on_the_fly", target_frames=64)
    train = IndexedManifest(prepared.manifests / "cuts_train.jsonl")
    weights = load_sampling_weights(tmp_path, "some", train)
    np.testing.assert_allclose(weights, class_balanced_weights(train.label_ids, train.label_starts))
    assert len(np.unique(weights)) > 5
    order = np.random.default_rng(0).permutation(len(train))[:20]
    lines = (prepared.manifests / "cuts_train.jsonl").read_text().splitlines()
    (tmp_path / "mixed.jsonl").write_text("\n".join(lines[i] for i in order) + "\n")
    mixed = IndexedManifest(tmp_path / "mixed.jsonl")
    np.testing.assert_array_equal(load_sampling_weights(tmp_path, "some", mixed), weights[order])
    with pytest.raises(DataError, match=r"no weight for \d+ of \d+ cuts, such as clip-_"):
        load_sampling_weights(tmp_path, "some", IndexedManifest(prepared.manifests / "cuts_valid.jsonl"))


def test_missing_and_damaged_files(prepared, tmp_path):
    train = IndexedManifest(prepared.manifests / "cuts_train.jsonl")
    folder = tmp_path / "stats" / "some"
    folder.mkdir(parents=True)
    for load in (load_stats, lambda *args: load_sampling_weights(*args, train)):
        with pytest.raises(DataError, match="stage 4 makes it"):
            load(tmp_path, "some")
    good = '{"mean": 1.0, "std": 1.0}'
    for content in (
        "{",
        "[]",
        good,  # as earlier versions wrote it, of train alone
        '{"train": {"mean": 1.0}}',
        f'{{"train": {good}, "eval": {{"mean": NaN, "std": 1.0}}}}',
        f'{{"eval": {good}}}',
    ):
        (folder / "stats.json").write_text(content)
        with pytest.raises(DataError, match=r"stats\.json is damaged .* run stage 4 again"):
            load_stats(tmp_path, "some")
    (folder / "stats.json").write_text('{"train": {"mean": -15.9, "std": 0.0}}')
    with pytest.raises(DataError, match=r"all features of train have the value -15\.9"):
        load_stats(tmp_path, "some")
    for content in (b"", b"junk" * 100, b"PK\x03\x04" + bytes(100)):
        (folder / "weights_train.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"weights_train\.npz is damaged"):
            load_sampling_weights(tmp_path, "some", train)


def link(prepared, data_dir):
    """A data folder of its own with the prepared manifests."""
    (data_dir / "manifests").symlink_to(prepared.manifests)
