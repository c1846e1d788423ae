"""Stored features and features computed on the fly make the same training batches."""

from __future__ import annotations

import pytest
import torch

from audiotag.config import Config
from audiotag.corpora.features import TICK_POWER, extract_splits
from audiotag.data.splits import open_split, read_labels
from audiotag.distributed import World
from audiotag.frontend import PRESETS, Frontend
from audiotag.training.loaders import training_data


def training_batches(data_dir, preset, storage):
    """The batches of the first epoch."""
    config = Config.model_validate(
        {
            "features": {"preset": preset, "storage": storage},
            "data": {"batch_size": None, "max_duration_s": 5.0, "num_workers": 0},
        }
    )
    manifest = open_split(data_dir, "train", preset=preset, storage=storage)
    world = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
    _, loader = training_data(config, manifest, data_dir, read_labels(data_dir), world)
    return list(loader(1))


@pytest.mark.parametrize("preset", PRESETS)
def test_batches_agree_within_the_rounding_of_the_codec(prepared, tmp_path, preset):
    (tmp_path / "manifests").symlink_to(prepared.manifests)
    extract_splits(tmp_path, preset=preset, num_jobs=2)
    all_stored = training_batches(tmp_path, preset, "stored")
    all_computed = training_batches(tmp_path, preset, "on_the_fly")
    frontend = Frontend(preset, normalize=False)
    assert len(all_stored) == len(all_computed) > 3
    for stored, computed in zip(all_stored, all_computed, strict=True):
        assert stored["ids"] == computed["ids"]
        assert torch.equal(stored["labels"], computed["labels"])
        read, read_lengths = frontend.finish(stored["inputs"], stored["lengths"])
        heard, heard_lengths = frontend(computed["inputs"], computed["lengths"])
        assert torch.equal(read_lengths, heard_lengths)
        # BEATs hears the zeros past a clip's end too, which are not stored.
        padding_counts = not PRESETS[preset].featurize_padding
        assert read.shape == heard.shape or not padding_counts
        for clip, length in enumerate(read_lengths):
            end = read.shape[1] if padding_counts else length
            difference = (read[clip, :end] - heard[clip, :end]).abs().max()
            assert difference <= 2.0**TICK_POWER / 2 + 1e-4
