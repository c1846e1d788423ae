"""Damaged checkpoints, exported folders and files of icefall: the weights that were written, or an error."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from audiotag.errors import AudiotagError
from audiotag.evaluation.thresholds import Thresholds, read_thresholds, write_thresholds
from audiotag.export.package import export_package, load_model
from audiotag.interop.icefall import read_weights
from audiotag.training.checkpoint import load_checkpoint, save_checkpoint
from tests.sweep.anydamage import sweep
from tests.tiny import tiny_checkpoint, tiny_config, tiny_labels, tiny_tagger


def equal(one: Any, other: Any) -> bool:
    """Whether nested values are the same, tensors bit by bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(equal(one[k], other[k]) for k in one)
        )
    return type(one) is type(other) and one == other


@pytest.fixture(scope="module")
def checkpoint(module_folder) -> Path:
    path = module_folder / "epoch-3.pt"
    tagger = tiny_tagger()
    optimizer = torch.optim.AdamW(tagger.parameters())
    save_checkpoint(path, tiny_checkpoint(epoch=3, optimizer=optimizer.state_dict()))
    return path


@pytest.fixture(scope="module")
def package(module_folder) -> Path:
    folder = module_folder / "export"
    labels = tiny_labels()
    thresholds = Thresholds("valid", 0.5, np.array([0.1, -0.25, 0.75]))
    write_thresholds(module_folder / "thresholds.json", thresholds, labels, np.array([3, 4, 5]), 12)
    export_package(
        folder,
        weights=tiny_tagger().state_dict(),
        config={**tiny_config(), "loss": {"name": "bce"}},
        labels=labels,
        info={"checkpoints": ["epoch-3.pt"]},
        thresholds=(module_folder / "thresholds.json").read_bytes(),
    )
    return folder


def described(folder: Path) -> dict[str, Any]:
    """All of a model: weights, settings, classes."""
    model = load_model(folder)
    return {
        "weights": dict(model.tagger.state_dict()),
        "config": model.config,
        "loss": model.loss,
        "labels": model.tagger.labels.to_rows(),
    }


def test_checkpoints(checkpoint):
    good = load_checkpoint(checkpoint)
    assert sweep(checkpoint, lambda: load_checkpoint(checkpoint), lambda found: equal(found, good)) > 150


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "labels.csv"])
def test_exported_folders(package, name):
    good = described(package)
    assert sweep(package / name, lambda: described(package), lambda found: equal(found, good)) > 150


def test_packed_thresholds(package):
    path, labels = package / "thresholds.json", tiny_labels()
    good = read_thresholds(path, labels)

    def same(found: Thresholds) -> bool:
        return (found.tuned_on, found.shared, found.by_class.tolist()) == (
            good.tuned_on, good.shared, good.by_class.tolist()
        )  # fmt: skip

    assert sweep(path, lambda: read_thresholds(path, labels), same) > 150


def test_files_of_icefall(module_folder):
    path = module_folder / "pretrained.pt"
    torch.save({"model": dict(tiny_tagger().state_dict())}, path)
    good = read_weights(path, "model")
    assert sweep(path, lambda: read_weights(path, "model"), lambda found: equal(found, good)) > 150


class Malicious:
    """Would write a file if a reader ran what a pickle asks for."""

    def __reduce__(self):
        return (open, ("executed", "w"))


READERS = {
    "epoch-1.pt": load_checkpoint,
    "pretrained.pt": lambda path: read_weights(path, "model"),
    "model.safetensors": lambda path: load_model(path.parent),
    "config.json": lambda path: load_model(path.parent),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("form", ["torch", "legacy", "plain"])
def test_no_reader_runs_what_a_file_asks_for(package, tmp_path, monkeypatch, name, form):
    monkeypatch.chdir(tmp_path)
    for file in package.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = {**tiny_checkpoint(), "format": "audiotag-checkpoint", "version": 2, "model": Malicious()}
    if form == "plain":
        (tmp_path / name).write_bytes(pickle.dumps(state))
    else:
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(AudiotagError, match=name.replace(".", r"\.")):
        READERS[name](tmp_path / name)
    assert not (tmp_path / "executed").exists()


TAGS = (
    "!!python/object/apply:os.system ['touch executed']",
    "!!python/object/new:os.system ['touch executed']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1, 2]",
    "!!binary aGVsbG8=",
    "!!set {a, b}",
    "!custom 1",
)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("where", ["file", "include", "--set", "report"])
def test_no_tag_of_yaml_makes_an_object(tmp_path, monkeypatch, tag, where):
    from audiotag.configfile import load_config
    from audiotag.evaluation.report import read_config

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(f"seed: {tag}\n")
    (tmp_path / "outer.yaml").write_text("include: config.yaml\n")
    if where == "report":
        try:
            assert isinstance(yaml.safe_dump(read_config(path)), str)
        except AudiotagError as error:
            assert "config.yaml" in str(error)
    else:
        arguments = {"file": (path,), "include": (tmp_path / "outer.yaml",), "--set": (None, [f"seed={tag}"])}
        with pytest.raises(AudiotagError, match=r"config\.yaml|--set"):
            load_config(*arguments[where])
    assert not (tmp_path / "executed").exists()
