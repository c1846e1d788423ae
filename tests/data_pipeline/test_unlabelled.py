"""Classes of which nobody knows whether a clip has them: from the manifest to the targets of training."""

from __future__ import annotations

import json
import logging
import pickle

import numpy as np
import pytest
import torch
from batches import load, load_epoch
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import check_manifest, noise_clips, record, write_manifest

from audiotag.augment.augmenter import build_augmenter
from audiotag.config import Config
from audiotag.data.index import IndexedManifest
from audiotag.data.indexfile import index_path_of
from audiotag.data.sources import MixedManifest, SourceSet, open_source
from audiotag.errors import DataError
from audiotag.frontend import Frontend
from audiotag.labels import Label, LabelTable

CPU = torch.device("cpu")


def cut(clip_id, labels="", unlabelled=None):
    """A cut with the field, or without it."""
    line = record(clip_id, labels=labels)
    if unlabelled is not None:
        line["supervisions"][0]["custom"]["unlabelled"] = unlabelled
    return line


def unlabelled(manifest):
    return [manifest.unlabelled(index).tolist() for index in range(len(manifest))]


def clips_of(folder, fields):
    """A manifest of wavs with these fields (audio_event, unlabelled)."""
    sounds = IndexedManifest(noise_clips(folder / "sounds", len(fields)))
    records = [sounds.record(index) for index in range(len(fields))]
    for line, (labels, unknown) in zip(records, fields, strict=True):
        line["supervisions"][0]["custom"] = {"audio_event": labels, "unlabelled": unknown}
    return write_manifest(folder / "manifests" / "cuts_train.jsonl", records)


def table(*mids):
    return LabelTable([Label(index, mid, mid.upper()) for index, mid in enumerate(mids)])


def same(batch, other):
    """Equal tensors, where NaN equals NaN."""
    return torch.equal(batch.nan_to_num(-1.0), other.nan_to_num(-1.0))


RECORDS = [cut("a", "1"), cut("b", "0", "2;1"), cut("c", "", ""), cut("d", "4", "2;1"), cut("e", "", "3;3")]
SETS = [[], [2, 1], [], [2, 1], [3, 3]]


def test_the_index_has_them_and_keeps_alike_sets_once(tmp_path):
    path = write_manifest(tmp_path / "cuts.jsonl", RECORDS)
    for _ in range(2):
        manifest = IndexedManifest(path)
        check_manifest(manifest, RECORDS)
        assert unlabelled(manifest) == unlabelled(pickle.loads(pickle.dumps(manifest))) == SETS  # noqa: S301
        assert manifest.unlabelled_ids.tolist() == [2, 1, 3, 3]
    other = write_manifest(tmp_path / "other.jsonl", [cut("x", "0")])
    both = IndexedManifest([other, path, other])
    assert unlabelled(both) == [[], *SETS, []] and both.unlabelled_ids.tolist() == [2, 1, 3, 3]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(5, 9), max_size=3), max_size=12))
def test_any_sets_are_read_back(tmp_path_factory, sets):
    records = [cut(f"c{i}", "1", ";".join(map(str, classes))) for i, classes in enumerate(sets)]
    path = write_manifest(tmp_path_factory.mktemp("any") / "cuts.jsonl", records)
    for _ in range(2):
        manifest = IndexedManifest(path)
        check_manifest(manifest, records)
        assert unlabelled(manifest) == sets


def test_without_them_the_index_is_no_larger(tmp_path):
    """Its columns are empty, whether cuts lack the field or hold it empty."""
    for value in (None, ""):
        path = write_manifest(tmp_path / "cuts.jsonl", [cut("a", "1", value), cut("b", "0", value)])
        manifest = IndexedManifest(path)
        assert [len(column) for column in manifest.unlabelled_columns()] == [0, 0, 0]
        assert unlabelled(manifest) == [[], []]


@pytest.mark.parametrize("version", [1, 2])
def test_an_index_of_an_older_version_is_replaced_without_a_word(tmp_path, caplog, version):
    path = write_manifest(tmp_path / "cuts.jsonl", RECORDS)
    IndexedManifest(path)
    good = index_path_of(path).read_bytes()
    index_path_of(path).write_bytes(good.replace(b"audiotag index 3", b"audiotag index %d" % version))
    with caplog.at_level(logging.WARNING):
        check_manifest(IndexedManifest(path), RECORDS)
    assert not caplog.records and index_path_of(path).read_bytes() == good


@pytest.mark.parametrize("value", ["x", "1;;2", "-1", "1_0", " 1", "9999999999", 5, ["1"]])
def test_a_field_that_cannot_be_read_is_refused(tmp_path, value):
    path = write_manifest(tmp_path / "cuts.jsonl", [cut("a"), cut("b", "0", value)])
    with pytest.raises(DataError, match="line 2: not a cut"):
        IndexedManifest(path)


def test_a_class_cannot_be_known_and_unknown(tmp_path):
    path = write_manifest(tmp_path / "cuts.jsonl", [cut("a", "1", "0"), cut("b", "0;3", "2;3")])
    with pytest.raises(DataError, match=r"line 2: .* a class of audio_event '0;3' is unlabelled too"):
        IndexedManifest(path)


def test_a_line_that_changes_behind_the_index_is_noticed(tmp_path):
    path = write_manifest(tmp_path / "cuts.jsonl", RECORDS)
    manifest = IndexedManifest(path)
    with path.open("r+b") as file:
        file.write(path.read_bytes().replace(b"2;1", b"2;7", 1))
    manifest.record(3)
    with pytest.raises(DataError, match="cut b is not what its index says"):
        manifest.record(1)


def test_classes_beyond_the_table_are_refused(tmp_path):
    path = write_manifest(tmp_path / "cuts.jsonl", [cut("a", "1"), cut("b", "0", "1;5"), cut("c", "", "5")])
    with pytest.raises(DataError, match=r"clip b of .* has class 5, but there are 5 labels"):
        load(IndexedManifest(path), [])


FIELDS = [("0", "1;3"), ("", ""), ("2;4", "0"), ("", "0;1;2;3;4")]
NAN = float("nan")
ROWS = torch.tensor([[1, NAN, 0, NAN, 0], [0, 0, 0, 0, 0], [NAN, 0, 1, 0, 1], [NAN] * 5])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_have_nan_there(tmp_path, num_workers):
    manifest = IndexedManifest(clips_of(tmp_path, FIELDS))
    [batch] = load(manifest, [np.array([3, 0, 2, 1])], num_workers=num_workers)
    assert same(batch["labels"], ROWS[[3, 0, 2, 1]]) and batch["labels"].dtype == torch.float32
    [batch] = load_epoch(manifest, batches=[np.arange(4)], num_workers=num_workers, partner_probability=1.0)
    assert same(batch["labels"], ROWS)
    rows = {tuple(row) for row in ROWS.nan_to_num(-1.0).tolist()}
    assert {tuple(row) for row in batch["partner"]["labels"].nan_to_num(-1.0).tolist()} <= rows


@pytest.mark.parametrize("partner", ["corpus", "batch"])
def test_a_mixture_knows_what_both_parts_know(tmp_path, partner):
    manifest = IndexedManifest(clips_of(tmp_path, FIELDS))
    augment = {"mixup": {"on": "features", "partner": partner, "probability": 1.0}}
    augmenter = build_augmenter(Config.model_validate({"augment": augment}).augment.model_dump())
    mixed = unknown = 0
    for epoch in range(1, 6):
        options = {"partner_probability": 1.0} if partner == "corpus" else {}
        [batch] = load_epoch(manifest, epoch=epoch, batches=[np.arange(4)], **options)
        _, _, targets = augmenter(batch, Frontend("ast128", target_frames=24), CPU, (1, epoch, 0))
        assert (targets.isnan() >= batch["labels"].isnan()).all()
        if partner == "corpus":
            assert torch.equal(targets.isnan(), batch["labels"].isnan() | batch["partner"]["labels"].isnan())
        unknown += int((targets.isnan() & ~batch["labels"].isnan()).sum())
        mixed += int(((targets > 0) & (targets < 1)).sum())
    assert mixed and unknown


def recipe(folder, mids, fields):
    """A recipe's data folder."""
    clips_of(folder, fields)
    table(*mids).write(folder / "manifests" / "labels.csv")
    return folder


OURS = ("/m/a", "/m/b", "/m/c", "/m/d", "/m/e")
FEATURES = {"preset": "icefall80", "storage": "on_the_fly"}


@pytest.mark.parametrize("missing_are_unknown", [True, False])
def test_classes_that_a_source_lacks(tmp_path, caplog, missing_are_unknown):
    """It has c and a, no b, d and e, and an x that we lack, of which it says nothing for a clip."""
    source = recipe(tmp_path / "other", ("/m/c", "/m/x", "/m/a"), [("0", ""), ("", "1;2"), ("2", "0")])
    own = IndexedManifest(clips_of(tmp_path / "own", FIELDS))
    with caplog.at_level(logging.INFO):
        other = open_source(source, table(*OURS), **FEATURES, missing_are_unknown=missing_are_unknown)
    said = "for its clips they are unknown" if missing_are_unknown else "its clips count as without them"
    assert f"{source} lacks 3 of 5 classes, such as /M/B: {said}" in caplog.text
    both = MixedManifest([SourceSet(tmp_path / "own", own, np.arange(5, dtype=np.int32)), other])
    [batch] = load(both, [np.array([2, 4, 5, 6])])
    theirs = torch.tensor([[0, NAN, 1, NAN, NAN], [NAN, NAN, 0, NAN, NAN], [1, NAN, NAN, NAN, NAN]])
    if not missing_are_unknown:
        theirs[:, [1, 3, 4]] = 0.0
    assert same(batch["labels"], torch.cat([ROWS[2:3], theirs]))
    present = {0, 1, 2, 3, 4}
    assert set(both.unlabelled_ids.tolist()) == present


def test_a_source_with_all_classes_leaves_nothing_unknown(tmp_path, caplog):
    source = recipe(tmp_path / "other", (*reversed(OURS), "/m/x"), [("0", ""), ("", "5")])
    with caplog.at_level(logging.INFO):
        other = open_source(source, table(*OURS), **FEATURES)
    assert "lacks" not in caplog.text and not len(MixedManifest([other]).unlabelled_ids)


def test_a_source_whose_list_is_too_short_is_refused(tmp_path):
    source = recipe(tmp_path / "other", ("/m/a", "/m/b"), [("0", ""), ("1", "3")])
    with pytest.raises(DataError, match=r"has class 3, but labels\.csv of .* has only 2 labels"):
        open_source(source, table(*OURS), **FEATURES)


def test_what_is_unknown_tells_two_sets_of_clips_apart(tmp_path):
    """A run must not go on with other labels; nothing unknown adds nothing to what it is known by."""

    def columns(fields):
        manifest = IndexedManifest(clips_of(tmp_path, fields))
        return b"".join(column.tobytes() for column in manifest.unlabelled_columns())

    assert columns([("0", ""), ("1", "")]) == b""
    found = {columns([("0", one), ("1", other)]) for one in ("", "2", "2;3") for other in ("", "2", "2;3")}
    assert len(found) == 9


def test_lhotse_reads_such_cuts(tmp_path):
    path = clips_of(tmp_path, FIELDS)
    assert IndexedManifest(path).cut(2).supervisions[0].custom["unlabelled"] == "0"
    assert json.loads(path.read_text().splitlines()[0])["supervisions"][0]["custom"]["unlabelled"] == "1;3"
