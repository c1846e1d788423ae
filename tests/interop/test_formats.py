"""The table of formats: each is told by its content, and the configuration knows them all."""

from __future__ import annotations

import typing

import pytest
import torch

from audiotag.configinit import Init
from audiotag.errors import CheckpointError
from audiotag.export.package import export_package
from audiotag.interop.ast import export_ast
from audiotag.interop.beats import export_beats
from audiotag.interop.espnet import export_espnet
from audiotag.interop.formats import FORMATS, find_format, read_model
from audiotag.interop.hfexport import export_huggingface
from audiotag.interop.icefall import export_icefall
from audiotag.interop.sourcemodel import Hints
from audiotag.training.checkpoint import save_checkpoint
from tests.export.models import small_model
from tests.interop.asts import random_deit
from tests.tiny import tiny_checkpoint


def test_the_configuration_knows_every_format():
    assert set(typing.get_args(Init.model_fields["format"].annotation)) == {"auto", *FORMATS}


ENCODERS = {"icefall": "zipformer", "beats": "beats", "espnet": "beats"}


def write(folder, name):
    model = small_model(ENCODERS.get(name, "ast"))
    if name == "deit":
        torch.save({"model": random_deit(14)}, folder / "x.pth")
        return folder / "x.pth"
    if name == "audiotag":
        weights, labels = model.tagger.state_dict(), model.tagger.labels
        config = {**model.config, "loss": {"name": "ce"}}
        export_package(folder, weights=weights, config=config, labels=labels, info={})
        return folder
    if name == "hf":
        export_huggingface(folder, model, {})
        return folder
    exports = {"icefall": export_icefall, "ast": export_ast, "beats": export_beats, "espnet": export_espnet}
    return exports[name](folder, model)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_recognised(tmp_path, name):
    path = write(tmp_path / "model", name) if name != "deit" else write(tmp_path, name)
    assert find_format(path) == name
    source = read_model(path, "auto", Hints({"num_heads": 2} if name in ("ast", "deit") else {}))
    assert source.encoder["name"] == ENCODERS.get(name, "ast")
    assert all(file.is_file() for file in source.files)
    assert source.loss == ("ce" if name == "audiotag" else "bce")


def test_a_folder_with_a_description_is_not_espnets(tmp_path):
    """Trainers of transformers leave rng_state.pth beside the model."""
    folder = write(tmp_path / "model", "hf")
    torch.save({"cpu": torch.zeros(3)}, folder / "rng_state.pth")
    assert find_format(folder) == "hf"


@pytest.mark.parametrize(
    "broken",
    [
        {"v.pos_embed": torch.zeros(())},
        {"v.cls_token": torch.zeros(1, 1, 0)},
        {"mlp_head.1.bias": torch.zeros(())},
        {7: torch.zeros(3)},
    ],
)
def test_shapes_that_no_model_has_are_refused_in_a_line(tmp_path, broken):
    path = write(tmp_path / "model", "ast")
    state = torch.load(path, weights_only=True)
    named = {key if isinstance(key, int) else f"module.{key}": value for key, value in broken.items()}
    torch.save({**state, **named}, path)
    with pytest.raises(CheckpointError, match=str(path)):
        read_model(path, "ast", Hints({"num_heads": 2}))


def test_own_checkpoints_are_recognised(tmp_path):
    save_checkpoint(tmp_path / "epoch-1.pt", tiny_checkpoint(seed=1))
    assert find_format(tmp_path / "epoch-1.pt") == "audiotag"
    source = read_model(tmp_path / "epoch-1.pt", "auto", Hints())
    assert source.labels.names == ["class 0", "class 1", "class 2"]


def test_other_things_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="none of the formats that are known here: audiotag, icefall"):
        find_format(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"it has no config\.json"):
        find_format(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="holds weights alone: name the folder"):
        find_format(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not the folder of a Hugging Face model"):
        read_model(tmp_path / "model.safetensors", "hf", Hints())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: damaged"):
        find_format(tmp_path)
