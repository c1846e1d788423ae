"""What a run knows of its data when it starts: it goes into every checkpoint."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from audiotag.config import Config
from audiotag.distributed import World
from audiotag.errors import ConfigError
from audiotag.training.resume import check_same_run
from audiotag.training.run import StartOptions, prepare_trainer
from audiotag.training.signals import StopRequest
from tests.data_pipeline.manifests import noise_clips
from tests.tiny import TINY, tiny_labels

COUNTS = {"listed": 6, "present": 6, "skipped": {}, "seconds": 1.2}
WORLD = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture
def data_dir(tmp_path):
    manifests = tmp_path / "data" / "manifests"
    manifests.mkdir(parents=True)
    noise_clips(tmp_path / "audio", 6, num_classes=3).rename(manifests / "cuts_train.jsonl")
    tiny_labels().write(manifests / "labels.csv")
    (manifests / "coverage.json").write_text(json.dumps({"train": COUNTS, "eval": COUNTS}))
    return tmp_path / "data"


def start(data_dir, normalization="preset", sources=None):
    features = {**TINY["features"], "storage": "on_the_fly", "normalization": normalization}
    settings = {
        **TINY,
        "features": features,
        "corpus": {"name": "audioset", "valid_share": 0.0},
        "data": {"num_workers": 0, "sources": sources},
    }
    exp_dir = data_dir.parent / "exp"
    return prepare_trainer(
        Config.model_validate(settings), data_dir, exp_dir, WORLD, StartOptions(), StopRequest()
    ).keeper


def test_statistics_join_the_record_and_disagreement_is_said(data_dir, caplog):
    """An untold corpus, one far from the preset's numbers, and the same one with its own numbers."""

    def complaints():
        texts = [record.getMessage() for record in caplog.records if "normalises" in record.getMessage()]
        caplog.clear()
        return texts

    assert "features" not in start(data_dir, "preset").record["coverage"]["train"]
    assert complaints() == []
    far = {"mean": -9.0, "std": 4.6, "num_clips": 6, "of_clips": 6}
    stats = data_dir / "stats" / "ast128_64_on_the_fly" / "stats.json"
    stats.parent.mkdir(parents=True)
    stats.write_text(json.dumps({"train": far, "eval": far}))
    coverage = start(data_dir, "preset").record["coverage"]
    assert coverage["train"] == coverage["eval"] == {**COUNTS, "features": far}
    [line] = complaints()
    assert "mean -9 and standard deviation 4.6" in line and "mean -4.268" in line
    for normalization in ("corpus", "none"):
        start(data_dir, normalization)
        assert complaints() == []


def test_a_source_with_other_clips_is_another_run(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "other")
    sources = [{}, {"data_dir": str(tmp_path / "other")}]
    alone, before = start(data_dir).record, start(data_dir, sources=sources).record
    assert alone["mixed_data"] is None and before["mixed_data"]["clips"] == 12
    assert before["train_data"] == alone["train_data"]
    state = {**before, "position": {"world_size": 1}}
    check_same_run(state, start(data_dir, sources=sources).record, tmp_path / "exp", 1, allow_changes=False)
    manifest = tmp_path / "other" / "manifests" / "cuts_train.jsonl"
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[1:]))
    after = start(data_dir, sources=sources).record
    with pytest.raises(ConfigError, match=r"on other clips in data.sources or .*\(12 then, 11 now\)"):
        check_same_run(state, after, tmp_path / "exp", 1, allow_changes=False)
