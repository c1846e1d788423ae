"""What `class_weights: balanced` is computed from."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from audiotag.config import Config
from audiotag.corpora.stats import corpus_stats
from audiotag.data.index import IndexedManifest
from audiotag.data.sources import MixedManifest, SourceSet
from audiotag.data.splits import read_labels
from audiotag.losses import build_loss
from audiotag.training.classweights import class_counts


def configuration(choice="balanced", **data):
    return Config.model_validate({"loss": {"name": "bce", "class_weights": choice}, "data": data})


def manifest(path, *events):
    """Cuts with these labels and no files."""
    lines = [
        {"id": str(i), "duration": 1.0, "supervisions": [{"custom": {"audio_event": event}}]}
        for i, event in enumerate(events)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return IndexedManifest(path)


def test_they_are_what_stage_4_counts(recipe):
    data = recipe.folder / "data"
    corpus_stats(data, "counted", preset="ast128", storage="on_the_fly", target_frames=64)
    with (data / "stats" / "counted" / "label_counts.csv").open(newline="") as file:
        expected = [int(row["train"]) for row in csv.DictReader(file)]
    labels = read_labels(data)
    train = IndexedManifest(data / "manifests" / "cuts_train.jsonl")
    counts = class_counts(configuration(), train, len(labels))
    assert counts.tolist() == expected and len(set(expected)) > 1
    weights = build_loss(configuration().loss.model_dump(), labels, counts).weights.numpy()
    present = counts > 0
    products = weights[present] * counts[present]
    np.testing.assert_allclose(products, products[0], rtol=1e-6)
    assert weights.mean() == pytest.approx(1.0)


@pytest.mark.parametrize("choice", ["none", "weights.csv"])
def test_nothing_is_counted_where_nobody_asks(tmp_path, choice):
    assert class_counts(configuration(choice), manifest(tmp_path / "cuts.jsonl", "0"), 3) is None


def test_sources_count_by_their_weights(tmp_path):
    """Ten clips in all: the first source, of four, makes 3/4 of an epoch, the second, of six, the rest."""
    first = manifest(tmp_path / "first.jsonl", "0", "0;1", "1", "")
    second = manifest(tmp_path / "second.jsonl", "0", "0", "0", "1", "1", "1")
    clips = MixedManifest(
        [
            SourceSet(tmp_path, first, np.array([0, 1], dtype=np.int32)),
            SourceSet(tmp_path, second, np.array([2, 0, -1], dtype=np.int32)),
        ]
    )
    config = configuration(sources=[{"weight": 3}, {"data_dir": "other", "weight": 1}])
    counts = class_counts(config, clips, 4)
    np.testing.assert_allclose(counts, [7.5 * 2 / 4 + 2.5 * 3 / 6, 7.5 * 2 / 4, 2.5 * 3 / 6, 0])
