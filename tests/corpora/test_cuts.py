"""Cut manifests of lhotse as a corpus: as icefall's recipe makes them, with audio or with stored features."""

from __future__ import annotations

import gzip
import json
import logging

import numpy as np
import pytest
import torch
from lhotse import CutSet

from audiotag.config import Config
from audiotag.configfile import load_config
from audiotag.corpora.features import take_over_splits
from audiotag.corpora.stats import corpus_stats
from audiotag.data.loading import load_audio, load_features
from audiotag.data.splits import open_split, read_sounds
from audiotag.errors import ConfigError, DataError
from audiotag.frontend import Frontend
from audiotag.stagekeys import stage_keys
from tests.corpora.lhotsecuts import NAMES, SETTINGS, Recipe


@pytest.fixture
def recipe(tmp_path):
    return Recipe(tmp_path)


@pytest.fixture(scope="module")
def with_features(tmp_path_factory):
    """Prepared from stored features, the audio being gone; tests only read it."""
    recipe = Recipe(tmp_path_factory.mktemp("stored"))
    recipe.write(with_features=True)
    recipe.remove_all_audio()
    recipe.prepare(stored_features="use")
    take_over_splits(recipe.manifests.parent, preset="icefall80")
    return recipe


def edit_lines(recipe, split, change):
    """Apply a function to the JSON of every line of a manifest."""
    path = recipe.root / NAMES[split]
    records = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    with gzip.open(path, "wt") as file:
        for number, record in enumerate(records):
            change(number, record)
            file.write(json.dumps(record) + "\n")


def test_ids_and_labels_are_whole_and_valid_is_held_out_of_train(recipe):
    recipe.write()
    recipe.prepare()
    train, valid, evaluated = (recipe.made(split) for split in ("train", "valid", "eval"))
    assert set(train) | set(valid) == {cut.id for cut in recipe.cuts["train"]}
    assert not set(train) & set(valid) and 4 <= len(valid) <= 12
    assert set(evaluated) == {cut.id for cut in recipe.cuts["eval"]}
    for cut in [*recipe.cuts["train"], *recipe.cuts["eval"]]:
        record = {**train, **valid, **evaluated}[cut.id]
        assert record["supervisions"][0]["custom"]["audio_event"] == cut.supervisions[0].audio_event
        assert record["recording"]["sources"][0]["source"] == str(recipe.audio(cut.id))
        assert load_audio(record).shape == (cut.num_samples,)
    assert "features" not in record
    assert read_sounds(recipe.manifests.parent, "train") is not None


def test_audio_that_is_missing_or_changed_is_skipped_with_the_reason(recipe):
    recipe.write()
    recipe.audio("-a_03_bcdef").unlink()
    recipe.audio("_e02_bcdefg").write_bytes(b"no sound at all")
    recipe.prepare()
    assert recipe.skipped("train") == {"-a_03_bcdef": "missing: no such file"}
    assert recipe.skipped("eval")["_e02_bcdefg"].startswith("unreadable: ")
    with pytest.raises(DataError, match=r"eval: 1 of 8 listed clips \(12.5%\) cannot be used"):
        recipe.prepare(max_skip=0.05)


def test_a_cut_may_be_a_part_of_its_file(recipe):
    whole = recipe.cuts["train"][0]
    recipe.cuts["train"][0] = whole.truncate(offset=0.25, duration=0.5)
    recipe.write()
    recipe.prepare(valid_share=0.0)
    record = recipe.made("train")[recipe.cuts["train"][0].id]
    expected = recipe.audio(whole.id)
    assert (record["start"], record["duration"]) == (0.25, 0.5)
    assert record["recording"]["sources"][0]["source"] == str(expected)
    assert load_audio(record).shape == (8000,)


def test_what_cannot_be_used_of_a_manifest_is_said_clip_by_clip(recipe):
    recipe.write()

    def spoil(number, record):
        custom = record["supervisions"][0]["custom"]
        if number == 0:
            custom["audio_event"] = "2;6"
        elif number == 1:
            custom["audio_event"] = "Dog"
        elif number == 2:
            custom["audio_event"] = ""
        elif number == 3:
            record["supervisions"] = []
        elif number == 4:
            record["recording"]["sources"][0] = {"type": "url", "channels": [0], "source": "http://x/y.wav"}
        elif number == 5:
            record["recording"]["transforms"] = [{"name": "Speed", "kwargs": {"factor": 1.1}}]
        elif number == 6:
            record["type"] = "MixedCut"
        elif number == 7:
            del record["recording"]

    edit_lines(recipe, "train", spoil)
    recipe.prepare()
    assert recipe.skipped("train") == {
        "-a_00_bcdef": "unknown label: 6 of 6 classes",
        "-a_01_bcdef": "bad labels: audio_event is 'Dog'",
        "-a_03_bcdef": "no labels: no supervision with audio_event",
        "-a_04_bcdef": "unsupported: audio of 1 sources, the first a url",
        "-a_05_bcdef": "unsupported: audio that Speed changes",
        "-a_06_bcdef": "unsupported: a cut of type MixedCut",
        "-a_07_bcdef": "missing: the cut has no recording",
    }


def test_ids_that_were_cut_short_are_noticed_and_can_be_had_from_the_files(recipe, caplog):
    recipe.write()
    for split in NAMES:
        edit_lines(
            recipe, split, lambda number, record: record.update(id=record["id"].split("_", 1)[0] or "-")
        )
    with pytest.raises(DataError, match="36 of 38 cuts have the id of a cut of another file, such as -a"):
        recipe.prepare(max_skip=0.05)
    with caplog.at_level(logging.WARNING):
        recipe.prepare(valid_share=0.0)
    assert "corpus.ids=file takes the names of the files; the first cut of each id counts" in caplog.text
    recipe.prepare(ids="file")
    assert set(recipe.made("train")) | set(recipe.made("valid")) == {cut.id for cut in recipe.cuts["train"]}


def test_stored_features_are_used_as_they_are_without_any_audio(with_features):
    data = with_features.manifests.parent
    manifest = open_split(data, "train", preset="icefall80", storage="stored")
    stored = {}
    for split in ("train", "eval"):
        for cut in CutSet.from_file(with_features.root / NAMES[split]):
            cut.features.storage_path = str(with_features.root / cut.features.storage_path)
            stored[cut.id] = cut.load_features()
    assert len(manifest) + len(with_features.made("valid")) == 30
    for position in range(len(manifest)):
        values = load_features(manifest.record(position))
        np.testing.assert_array_equal(values, stored[manifest.id(position)])
    cut = manifest.cut(0)  # lhotse reads it too
    np.testing.assert_array_equal(cut.load_features(), stored[cut.id])
    # Nobody knows how they sound.
    assert read_sounds(data, "train") is None
    corpus_stats(data, "of", preset="icefall80", storage="stored", target_frames=None)
    assert (data / "stats/of/weights_train.npz").is_file()


def test_they_are_what_the_preset_computes(recipe):
    recipe.write(with_features=True)
    recipe.prepare(stored_features="use")
    frontend = Frontend("icefall80")
    for record in recipe.made("eval").values():
        samples = torch.from_numpy(load_audio(record))[None]
        exact, _ = frontend.extract(samples, torch.tensor([samples.shape[1]]))
        # lilcom's steps are of 1/32.
        np.testing.assert_allclose(load_features(record), exact[0].numpy(), atol=0.02)


def test_features_that_are_missing_short_or_of_another_kind_are_skipped(recipe):
    recipe.write(with_features=True)
    for path in (recipe.root / "data/fbank").rglob("eval_feats*.lca"):
        path.write_bytes(path.read_bytes()[:-100])

    def spoil(number, record):
        if number == 0:
            record["features"]["storage_path"] = "data/fbank/elsewhere.lca"
        elif number == 1:
            record["features"]["num_features"] = 64
        elif number == 2:
            del record["features"]
        elif number == 3:
            record["features"]["num_frames"] += 1

    edit_lines(recipe, "train", spoil)
    recipe.prepare(stored_features="use")
    skipped = recipe.skipped("train")
    assert len(skipped) == 4
    elsewhere = recipe.root / "data/fbank/elsewhere.lca"
    assert skipped["-a_00_bcdef"] == f"missing: no file of features {elsewhere}"
    assert skipped["-a_01_bcdef"].startswith(
        "other features: kaldi-fbank with 64 bins every 0.01 s at 16000 Hz"
    )
    assert skipped["-a_02_bcdef"] == "no features: the cut has none stored"
    assert skipped["-a_03_bcdef"].startswith("truncated: the manifest promises ")
    assert [reason.partition(":")[0] for reason in recipe.skipped("eval").values()] == ["unreadable"]


def test_copies_and_leaks_are_found_by_their_features(recipe):
    copy = recipe.cuts["eval"][0]
    recipe.audio("another_name").write_bytes(recipe.audio(copy.id).read_bytes())
    leak = recipe.cut("another_name", 100)
    recipe.cuts["train"].append(leak)
    recipe.write(with_features=True)
    recipe.prepare(stored_features="use")
    assert recipe.skipped("train") == {"another_name": f"leak: same audio as eval clip {copy.id}"}


@pytest.mark.parametrize("damage", ["cut off", "no json", "no cut", "gone"])
def test_a_damaged_manifest_is_named_with_the_line(recipe, damage):
    recipe.write()
    path = recipe.root / NAMES["train"]
    text = gzip.decompress(path.read_bytes())
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "no json":
        path.write_bytes(gzip.compress(text[:-30]))
    elif damage == "no cut":
        path.write_bytes(gzip.compress(text + b'{"id": "x"}\n'))
    else:
        path.unlink()
    words = {
        "cut off": "not a whole cut manifest (after line ",
        "no json": "not a whole cut manifest (after line 30:",
        "no cut": "line 31: not a cut of lhotse (KeyError: 'start')",
        "gone": f"cut manifest not found: {path}",
    }
    with pytest.raises(DataError) as caught:
        recipe.prepare()
    assert words[damage] in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    "odd",
    [
        {"duration": float("nan")},
        {"duration": 0},
        {"start": -1.0},
        {"start": "early"},
        {"id": 7},
        {"recording": []},
        {"recording": {"sources": []}},
        {"supervisions": {"custom": 3}},
        {"features": {"num_features": 80}},
    ],
)
def test_a_line_that_is_no_cut_is_named(recipe, odd):
    recipe.write()
    edit_lines(recipe, "eval", lambda number, record: record.update(odd if number == 3 else {}))
    use = {"stored_features": "use"} if "features" in odd else {}
    with pytest.raises(DataError, match=r"cuts_audioset_eval\.jsonl\.gz, line 4: not a cut of lhotse"):
        recipe.prepare(**use)


def test_the_configuration_says_what_stored_features_need(recipe):
    use = {"name": "cuts", "stored_features": "use"}
    Config.model_validate({"corpus": use, "features": {"preset": "icefall80", "storage": "stored"}})
    with pytest.raises(ConfigError, match="use is for features"):
        load_config(None, ["corpus={name: cuts, stored_features: use}"])
    with pytest.raises(ConfigError, match="opens no audio"):
        load_config(None, ["corpus={name: cuts, stored_features: use, audio_copy: flac}"])


def test_an_edited_manifest_redoes_stage_1(recipe):
    recipe.write()
    corpus = {"name": "cuts", "dir": str(recipe.root), **SETTINGS}

    def key():
        return stage_keys(Config.model_validate({"corpus": corpus}))["1"]

    before = key()
    assert key() == before
    edit_lines(recipe, "eval", lambda number, record: record.update(start=0.1))
    assert key() != before
