"""The command: from a run, a checkpoint or an exported folder to each of the formats."""

from __future__ import annotations

import json

import pytest
import torch

import audiotag
from audiotag.bin import export
from audiotag.errors import ConfigError
from audiotag.export.package import load_model
from audiotag.training.checkpoint import save_checkpoint
from tests.tiny import tiny_checkpoint, tiny_config, tiny_tagger


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A function that exports from a folder with a run of two epochs, trained with ce."""
    config = {**tiny_config(), "loss": {"name": "ce"}}
    for epoch in (1, 2):
        state = {**tiny_checkpoint(seed=epoch, epoch=epoch), "config": config}
        save_checkpoint(tmp_path / "exp" / f"epoch-{epoch}.pt", state)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["export", *arguments])
        export.main()

    return run


@pytest.mark.parametrize(
    ("source", "seed"),
    [
        (("--exp-dir", "exp"), 2),
        (("--exp-dir", "exp", "--epoch", "1"), 1),
        (("--model", "exp/epoch-1.pt"), 1),
    ],
)
def test_a_package_of_any_source(command, tmp_path, source, seed):
    command(*source, "--dest", "out")
    model = load_model("out")
    assert model.loss == "ce"
    for name, tensor in tiny_tagger(seed).state_dict().items():
        assert torch.equal(model.tagger.state_dict()[name], tensor), name
    command("--model", "out", "--dest", "again")
    for name in ("model.safetensors", "labels.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(("kind", "file"), [("onnx", "model.onnx"), ("torchscript", "model.ts")])
def test_formats_of_other_programs(command, tmp_path, kind, file):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    command("--exp-dir", "exp", "--avg", "2", "--to", kind, "--dest", "out")
    description = json.loads((tmp_path / "out" / "config.json").read_text())
    assert description["info"]["checkpoints"] == ["epoch-1.pt", "epoch-2.pt"]
    assert description["probabilities"] == "softmax"
    assert (tmp_path / "out" / file).is_file()
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_weights_of_a_run_are_not_chosen_from_a_single_model(command):
    with pytest.raises(ConfigError, match="go with --exp-dir"):
        command("--model", "exp/epoch-1.pt", "--best", "--dest", "out")


def test_an_exported_package_is_what_load_reads(command):
    command("--model", "exp/epoch-2.pt", "--dest", "out")
    x = torch.randn(2, 9000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = [model(x, torch.tensor([9000, 7000])) for model in (audiotag.load("out"), tiny_tagger(2))]
    assert torch.equal(*logits)
