"""Exported folders and `audiotag.load`."""

from __future__ import annotations

import json

import pytest
import torch

import audiotag
from audiotag.errors import CheckpointError
from audiotag.export.package import export_package, load_model
from audiotag.labels import Label, LabelTable
from audiotag.seal import unsealed
from audiotag.training.checkpoint import save_checkpoint
from tests.tiny import tiny_checkpoint, tiny_config, tiny_labels, tiny_tagger


@pytest.fixture
def folder(tmp_path):
    export_package(
        tmp_path / "export",
        weights=tiny_tagger().state_dict(),
        config=tiny_config(),
        labels=tiny_labels(),
        info={"weights": "epoch1"},
    )
    return tmp_path / "export"


def logits_of(tagger):
    waveforms = torch.randn(2, 9000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return tagger(waveforms, torch.tensor([9000, 5000]))


def test_checkpoint_and_folder_load_to_the_same_tagger(folder, tmp_path):
    save_checkpoint(tmp_path / "epoch-1.pt", tiny_checkpoint())
    expected = logits_of(tiny_tagger())
    for path in (folder, str(folder), tmp_path / "epoch-1.pt"):
        tagger = audiotag.load(path)
        assert not tagger.training
        assert tagger.labels == tiny_labels()
        assert torch.equal(logits_of(tagger), expected)


def test_the_loss_is_known_in_every_form(folder, tmp_path):
    """Folders and checkpoints of before it was noted had binary cross-entropy."""
    assert load_model(folder).loss == "bce"
    config = {**tiny_config(), "loss": {"name": "ce"}}
    export_package(
        tmp_path / "ce", weights=tiny_tagger().state_dict(), config=config, labels=tiny_labels(), info={}
    )
    assert load_model(tmp_path / "ce").loss == "ce"
    assert torch.equal(logits_of(audiotag.load(tmp_path / "ce")), logits_of(tiny_tagger()))
    old = {name: section for name, section in config.items() if name != "loss"}
    for trained, loss in ((config, "ce"), (old, "bce")):
        save_checkpoint(tmp_path / "epoch-1.pt", {**tiny_checkpoint(), "config": trained})
        assert load_model(tmp_path / "epoch-1.pt").loss == loss
    path = folder / "config.json"
    description = unsealed(json.loads(path.read_text()))
    for damage in ("ce", {"name": 3}, []):
        path.write_text(json.dumps({**description, "loss": damage}))
        with pytest.raises(CheckpointError, match="its section 'loss' is damaged"):
            load_model(folder)
    del description["loss"]
    path.write_text(json.dumps(description))
    assert load_model(folder).loss == "bce"


def test_the_folder_holds_no_pickle(folder):
    assert sorted(item.name for item in folder.iterdir()) == [
        "config.json",
        "labels.csv",
        "model.safetensors",
    ]
    assert json.loads((folder / "config.json").read_text())["encoder"]["embed_dim"] == 16


@pytest.mark.parametrize("name", ["config.json", "labels.csv", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "bytes"])
def test_damaged_folders_are_refused_by_name(folder, name, damage):
    path = folder / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"empty": b"", "truncated": data[: len(data) // 2], "bytes": b"\xff\xfe\x00"}[damage]
        )
    with pytest.raises(CheckpointError, match="export"):
        audiotag.load(folder)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("encoder", "name", None, "section 'encoder' is missing or damaged"),
        ("features", "preset", "mp3", "features.preset: Input should be 'icefall80'"),
        ("encoder", "zz", 3, "unknown key 'encoder.zz'"),
    ],
)
def test_a_description_that_does_not_make_a_model_is_refused(folder, section, key, value, message):
    path = folder / "config.json"
    description = unsealed(json.loads(path.read_text()))
    description[section][key] = value
    if value is None:
        del description[section][key]
    path.write_text(json.dumps(description))
    with pytest.raises(CheckpointError) as caught:
        audiotag.load(folder)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "labels.csv"])
def test_a_file_of_another_export_is_refused(folder, tmp_path, name):
    other = tmp_path / "other"
    labels = LabelTable([Label(index, f"/m/{index:03d}", f"other class {index}") for index in range(3)])
    export_package(other, weights=tiny_tagger(5).state_dict(), config=tiny_config(), labels=labels, info={})
    (folder / name).write_bytes((other / name).read_bytes())
    with pytest.raises(CheckpointError, match=rf"{name} is damaged or not the one that was exported"):
        audiotag.load(folder)
    path = folder / "config.json"
    description = unsealed(json.loads(path.read_text()))
    del description["sha256"]
    path.write_text(json.dumps(description))
    audiotag.load(folder)  # by hand, and meant


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"not an exported model: it has no config\.json"):
        audiotag.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="not an audiotag model"):
        audiotag.load(tmp_path)
