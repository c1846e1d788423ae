"""Train sets of several recipes as one, and the training data that a configuration describes."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest
import torch
from batches import load
from manifests import noise_clips, record, write_manifest

from audiotag.config import Config
from audiotag.corpora.stats import weights_path
from audiotag.data.index import IndexedManifest
from audiotag.data.sources import MixedManifest, SourceSet, check_held_out, open_source
from audiotag.data.splits import read_labels
from audiotag.distributed import World
from audiotag.errors import DataError
from audiotag.labels import Label, LabelTable
from audiotag.training.loaders import evaluation_loader, training_data, validation_data
from audiotag.training.resume import fingerprint

FEATURES = {"preset": "icefall80", "storage": "on_the_fly"}
WORLD = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
MIDS = ("/m/a", "/m/b", "/m/c", "/m/d", "/m/e")


def recipe(folder, mids, clips, held_out=()):
    """A recipe's data folder: clips of train as (id, class indices), ids of eval."""
    table = LabelTable([Label(index, mid, mid.upper()) for index, mid in enumerate(mids)])
    manifests = folder / "manifests"
    manifests.mkdir(parents=True)
    table.write(manifests / "labels.csv")
    sounds = IndexedManifest(noise_clips(folder / "sounds", len(clips)))
    records = []
    for position, (name, labels) in enumerate(clips):
        line = sounds.record(position)
        line["id"] = name
        line["supervisions"][0]["custom"]["audio_event"] = labels
        records.append(line)
    write_manifest(manifests / "cuts_train.jsonl", records)
    write_manifest(manifests / "cuts_eval.jsonl", [record(name) for name in held_out])
    return folder


def train_set(folder):
    return IndexedManifest(folder / "manifests" / "cuts_train.jsonl")


@pytest.fixture
def own(tmp_path):
    clips = [(f"own{number}", str(number % 5)) for number in range(12)]
    return recipe(tmp_path / "own", MIDS, clips, held_out=["e1", "e2"])


@pytest.fixture
def other(tmp_path):
    """The same classes the other way round, and one more that no clip has."""
    mids = (*reversed(MIDS), "/m/unused")
    clips = [(f"other{number}", f"{number % 5};0") for number in range(8)]
    return recipe(tmp_path / "other", mids, clips)


def mixed(own, other):
    labels = read_labels(own)
    return MixedManifest(
        [
            SourceSet(own, train_set(own), np.arange(5, dtype=np.int32)),
            open_source(other, labels, **FEATURES),
        ]
    )


def test_a_mixture_has_the_interface_of_a_manifest(own, other):
    both, first, second = mixed(own, other), train_set(own), train_set(other)
    assert len(both) == 20 and both.bounds.tolist() == [0, 12, 20]
    assert both.paths == [*first.paths, *second.paths]
    np.testing.assert_array_equal(both.durations, [*first.durations, *second.durations])
    np.testing.assert_array_equal(both.ids(), [*first.ids(), *second.ids()])
    assert [both.id(i) for i in range(20)] == [clip.decode() for clip in both.ids()]
    assert both.record(3) == first.record(3) and both.record(15) == second.record(3)
    for index in range(20):
        expected = [index % 5] if index < 12 else [4 - (index - 12) % 5, 4]
        span = slice(both.label_starts[index], both.label_starts[index + 1])
        assert both.labels(index).tolist() == both.label_ids[span].tolist() == expected
    with pytest.raises(IndexError):
        both.record(20)
    assert fingerprint(both)["clips"] == 20 and fingerprint(both) != fingerprint(first)


def test_batches_of_a_mixture_have_our_classes(own, other):
    both = mixed(own, other)
    [batch] = load(both, [np.array([2, 13])])
    assert batch["ids"] == ["own2", "other1"]
    assert batch["labels"].tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]


def test_labels_that_we_lack_are_named(own, tmp_path):
    mids = ("/m/a", "/m/x", "/m/unused", "/m/y")
    stranger = recipe(tmp_path / "stranger", mids, [("s0", "0;1"), ("s1", "3")])
    with pytest.raises(DataError) as error:
        open_source(stranger, read_labels(own), **FEATURES)
    assert f"clips of {stranger} have 2 labels that this recipe does not know: /m/x (/M/X), /m/y" in str(
        error.value
    )


def test_a_source_with_other_labels_than_its_list_is_refused(own, tmp_path):
    broken = recipe(tmp_path / "broken", ("/m/a",), [("s0", "0;1")])
    with pytest.raises(DataError, match=f"has class 1, but labels.csv of {broken} has only 1 labels"):
        open_source(broken, read_labels(own), **FEATURES)


def test_clips_that_we_evaluate_on_are_refused(own, tmp_path):
    leak = recipe(tmp_path / "leak", MIDS, [("a", "0"), ("e2", "1"), ("b", "2"), ("e1", "3")])
    source = open_source(leak, read_labels(own), **FEATURES)
    with pytest.raises(DataError) as error:
        check_held_out(source, own, **FEATURES)
    assert f"2 clips of {leak} are also in this recipe's eval split, such as e2" in str(error.value)
    write_manifest(own / "manifests" / "cuts_eval.jsonl", [record("z")])
    write_manifest(own / "manifests" / "cuts_valid.jsonl", [record("b")])
    with pytest.raises(DataError, match=r"1 clips .* in this recipe's valid split, such as b"):
        check_held_out(source, own, **FEATURES)
    write_manifest(own / "manifests" / "cuts_valid.jsonl", [record("bb")])
    check_held_out(source, own, **FEATURES)


def write_sounds(folder, split, sounds):
    path = folder / "manifests" / f"sounds_{split}.npz"
    np.savez(path, sounds=np.array(sounds, dtype=np.uint64))


def test_clips_are_known_again_by_their_audio(own, tmp_path, caplog):
    """Other recipes call a clip by another name, or another clip by the same."""
    clips = [("a", "0"), ("e2", "1"), ("b", "2")]
    source = open_source(recipe(tmp_path / "source", MIDS, clips), read_labels(own), **FEATURES)
    write_sounds(own, "eval", [7, 0])
    write_sounds(source.data_dir, "train", [5, 6, 0])
    check_held_out(source, own, **FEATURES)
    write_sounds(source.data_dir, "train", [5, 6, 7])
    assert not caplog.records
    with pytest.raises(DataError, match=r"1 clips of .* are also in this recipe's eval split, such as b:"):
        check_held_out(source, own, **FEATURES)
    write_sounds(source.data_dir, "train", [5, 6])  # of another state of the manifest
    with pytest.raises(DataError, match="such as e2"):
        check_held_out(source, own, **FEATURES)
    assert "looked for by their ids" in caplog.text


def test_lists_of_audio_of_earlier_versions_are_read_and_damaged_ones_refused(own, tmp_path):
    source = open_source(recipe(tmp_path / "source", MIDS, [("a", "0")]), read_labels(own), **FEATURES)
    write_sounds(own, "eval", [7, 0])
    earlier = source.data_dir / "manifests" / "sounds_train.npy"
    np.save(earlier, np.array([7], dtype=np.uint64))
    with pytest.raises(DataError, match=r"1 clips of .* such as a:"):
        check_held_out(source, own, **FEATURES)
    np.save(earlier, np.array([7], dtype=np.int32))
    with pytest.raises(
        DataError, match=r"sounds_train.npy is damaged \(expected a list of uint64, found int32"
    ):
        check_held_out(source, own, **FEATURES)
    write_sounds(source.data_dir, "train", [7])
    path = earlier.with_suffix(".npz")
    path.write_bytes(path.read_bytes().replace(np.uint64(7).tobytes(), np.uint64(6).tobytes()))
    with pytest.raises(DataError, match=r"sounds_train.npz is damaged .* run stage 1 again with --force"):
        check_held_out(source, own, **FEATURES)


def test_a_class_that_our_list_lacks_is_named(own, other):
    lines = [train_set(own).record(position) for position in range(12)]
    lines[4]["supervisions"][0]["custom"]["audio_event"] = "7"
    write_manifest(own / "manifests" / "cuts_train.jsonl", lines)
    with pytest.raises(DataError, match=r"clip own4 .* has class 7, but there are 5 labels"):
        training(configuration(sources=sources(other)), own)


def configuration(augment=None, features=None, evaluation=None, **data):
    return Config.model_validate(
        {
            "features": {**FEATURES, **(features or {})},
            "data": {"batch_size": 5, "num_workers": 0, **data},
            "augment": augment or {},
            "evaluation": evaluation or {},
        }
    )


def training(config, folder, world=WORLD):
    return training_data(config, train_set(folder), folder, read_labels(folder), world)


def drawn(loader, epochs=range(1, 4)):
    return [Counter(clip for batch in loader(epoch) for clip in batch["ids"]) for epoch in epochs]


def sources(other, own_weight=1.0, other_weight=3.0):
    return [{"weight": own_weight}, {"data_dir": str(other), "weight": other_weight}]


def test_sources_are_mixed_by_their_weights(own, other):
    config = configuration(sources=sources(other), samples_per_epoch=16)
    _, loader = training(config, own)
    for epoch in drawn(loader):
        assert sum(count for clip, count in epoch.items() if clip.startswith("other")) == 12
        assert sum(epoch.values()) == 16


def test_training_on_another_recipe_alone(own, other):
    _, loader = training(configuration(sources=[{"data_dir": str(other)}]), own)
    assert set(drawn(loader)[0]) == {f"other{number}" for number in range(8)}


def test_passes_over_the_clips_are_whole_from_the_first_epoch_on(own):
    _, loader = training(configuration(samples_per_epoch=3), own)
    assert set(sum(drawn(loader, range(1, 5)), Counter()).values()) == {1}


def write_weights(folder, config, weights):
    path = weights_path(folder, config.features.stats_name)
    path.parent.mkdir(parents=True)
    names = np.array(list(weights), dtype="S")
    np.savez(path, ids=names, weights=np.array(list(weights.values()), dtype=float))


def test_weights_of_a_source_come_from_its_own_folder(own, other):
    config = configuration(sources=sources(other, 1.0, 1.0), sampling="weighted", samples_per_epoch=40)
    write_weights(own, config, {f"own{number}": float(number == 3) for number in reversed(range(12))})
    write_weights(other, config, {f"other{number}": float(number in (1, 2)) for number in range(8)})
    _, loader = training(config, own)
    [epoch] = drawn(loader, [1])
    assert epoch["own3"] == 20 and epoch["other1"] + epoch["other2"] == 20 and len(epoch) == 3


def test_a_missing_source_names_the_stage(own, tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/none/manifests/cuts_train.jsonl is missing; stage 1"):
        training(configuration(sources=[{"data_dir": str(tmp_path / "none")}]), own)


def test_a_leak_stops_the_training(own, tmp_path):
    leak = recipe(tmp_path / "leak", MIDS, [("e2", "1")])
    with pytest.raises(DataError, match="are also in this recipe's eval split"):
        training(configuration(sources=[{"data_dir": str(leak)}]), own)


def test_the_plan_counts_cropped_durations(own):
    """Clips of 0.2 to 0.255 s, cropped to 0.1 s: ten of them fit into a second."""
    whole, _ = training(configuration(batch_size=None, max_duration_s=1.0), own)
    config = configuration(augment={"crop": {"duration_s": 0.1}}, batch_size=None, max_duration_s=1.0)
    plan, loader = training(config, own)
    assert whole.num_batches(1) == 4 and plan.num_batches(1) == 2
    assert {length for batch in loader(1) for length in batch["lengths"].tolist()} == {1600}
    # A limit below the clips' own length is enough for their crops.
    training(configuration(augment={"crop": {"duration_s": 0.1}}, batch_size=None, max_duration_s=0.15), own)


def test_partners_only_for_mixup_with_the_corpus(own):
    for mixup, expected in (
        ({"partner": "corpus", "probability": 1.0}, 5),
        ({"partner": "batch"}, None),
        (None, None),
    ):
        _, loader = training(configuration(augment={"mixup": mixup} if mixup else {}), own)
        batch = next(iter(loader(1)))
        assert ("partner" in batch) == (expected is not None)
        if expected:
            assert len(batch["partner"]["rows"]) == len(batch["ids"])


def test_max_unreadable_is_that_of_the_configuration(own):
    for number in (3, 4):
        (own / "sounds" / f"{number}.wav").unlink()
    _, loader = training(configuration(max_unreadable=0.01), own)
    with pytest.raises(DataError, match=r"more than data.max_unreadable"):
        drawn(loader, [1])
    _, loader = training(configuration(max_unreadable=0.5), own)
    assert drawn(loader, [1])[0].total() == 12
    write_manifest(own / "manifests" / "cuts_valid.jsonl", [train_set(own).record(3)])
    with pytest.raises(
        DataError, match=r"1 of 1 files of the split valid are gone, such as .*3\.wav .clip own3"
    ):
        validation_data(configuration(max_unreadable=1.0), own, read_labels(own), WORLD)


@pytest.mark.parametrize("training_split", [True, False])
def test_long_clips_are_spoken_of_once(own, caplog, training_split):
    """Clips of 3200 + 80 k samples; 22 frames of ast128 end at sample 3760."""
    features = {"preset": "ast128", "target_frames": 22}
    with caplog.at_level(logging.WARNING):
        if training_split:
            _, loader = training(configuration(features=features), own)
            list(loader(1))
            list(loader(2))
        else:
            manifests = own / "manifests"
            (manifests / "cuts_valid.jsonl").write_text((manifests / "cuts_train.jsonl").read_text())
            valid = validation_data(configuration(features=features), own, read_labels(own), WORLD)
            list(valid())
            list(valid())
    [line] = [entry.getMessage() for entry in caplog.records]
    name, advice = (
        ("train", "augment.crop.duration_s=0.22")
        if training_split
        else ("valid", "score them in windows (evaluation.window_s=0.22), or raise features")
    )
    # 22 frames have 3760 samples and a 23rd needs 160 more: clips 9, 10, 11 with 3920, 4000 and 4080.
    assert line.startswith(
        f"3 of 12 clips of {name} are longer than 0.22 s: the model sees their first 0.22 s only "
        "(the longest has 0.255 s); "
    )
    assert advice in line and ("augment.crop" in line) == training_split
    assert line.endswith("raise features.target_frames")


@pytest.mark.parametrize(
    ("features", "augment"),
    [
        ({"preset": "icefall80"}, {}),
        ({"preset": "ast128", "target_frames": 24}, {}),
        ({"preset": "ast128", "target_frames": 22}, {"crop": {"duration_s": 0.22}}),
    ],
)
def test_nothing_is_said_where_the_model_sees_all(own, caplog, features, augment):
    training(configuration(features=features, augment=augment), own)
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


def test_other_processes_leave_the_warning_to_the_first(own, caplog):
    features = {"preset": "ast128", "target_frames": 22}
    second = World(rank=1, local_rank=1, size=2, device=torch.device("cpu"))
    training(configuration(features=features), own, second)
    evaluation_loader(configuration(features=features), train_set(own), 5, second)
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
