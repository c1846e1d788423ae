"""ImageNet weights of distilled DeiT: kernel summed, positions adapted, a fresh head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audiotag.bin import import_checkpoint
from audiotag.errors import CheckpointError, ConfigError
from audiotag.export.package import load_model
from audiotag.interop.deit import read_deit
from audiotag.interop.importing import import_model
from audiotag.interop.sourcemodel import Hints
from tests.interop.asts import LABELS, random_deit

DATA = Path(__file__).parents[1] / "data" / "ast"
HINTS = Hints({"num_heads": 2})


def save(path, state, wrapped=True):
    torch.save({"model": state} if wrapped else state, path)
    return path


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(("source", "side"), [("deit24", 24), ("deit14", 14)])
def test_as_the_original_code_starts_from_it(tmp_path, source, side, wrapped):
    vectors = load_file(DATA / "pos_embed.safetensors")
    state = random_deit(side, positions=vectors[f"{source}.source.pos_embed"])
    state["patch_embed.proj.weight"] = vectors["deit24.source.proj_weight"]
    state["patch_embed.proj.bias"] = vectors["deit24.source.proj_bias"]
    read = read_deit(save(tmp_path / "deit.pth", state, wrapped), HINTS)
    model, transfer = import_model(read, LABELS, {"encoder": {"num_heads": 2}})
    own = model.tagger.state_dict()
    torch.testing.assert_close(
        own["encoder.patch_embed.proj.weight"], vectors["deit24.result.proj_weight"], rtol=0, atol=1e-6
    )
    assert torch.equal(own["encoder.patch_embed.proj.bias"], vectors["deit24.result.proj_bias"])
    torch.testing.assert_close(
        own["encoder.pos_embed"], vectors[f"{source}.f12_t101.pos_embed"], rtol=0, atol=5e-5
    )
    for name, value in state.items():
        if not name.startswith(("head", "pos_embed", "patch_embed")):
            assert torch.equal(own[f"encoder.{name}"], value), name
    assert transfer.fresh == ["head (the model has none)"]
    assert model.tagger.frontend.target_frames == 1024
    assert [model.config["encoder"][f"{name}_norm_eps"] for name in ("block", "final", "head")] == [
        1e-6,
        1e-6,
        1e-5,
    ]


def test_the_published_sizes_are_known(tmp_path):
    for width, heads in ((192, 3), (384, 6), (768, 12)):
        read = read_deit(save(tmp_path / "deit.pth", random_deit(14, width=width, depth=1)), Hints())
        assert (read.encoder["embed_dim"], read.encoder["num_heads"]) == (width, heads)
        assert read.layout.grid == (14, 14)


def test_the_command_needs_classes_and_makes_the_same_head_each_time(tmp_path, monkeypatch):
    save(tmp_path / "deit.pth", random_deit(14))
    LABELS.write(tmp_path / "labels.csv")
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        given = ["--set", "encoder.num_heads=2", "--set", "features.target_frames=100", *arguments]
        monkeypatch.setattr("sys.argv", ["import_checkpoint", "--from", "deit", "deit.pth", *given])
        import_checkpoint.main()

    with pytest.raises(ConfigError, match=r"has no head: name the classes.*--labels"):
        run("model")
    for folder in ("model", "again"):
        run(folder, "--labels", "labels.csv")
    first, second = (load_model(folder).tagger.state_dict() for folder in ("model", "again"))
    assert first["head.weight"].std() > 0
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {**state, "pos_embed": torch.zeros(1, 200, 8)}, "198 positions are no square"),
        (lambda state: {k: v for k, v in state.items() if k != "dist_token"}, "without distillation token"),
        (lambda state: {k: v for k, v in state.items() if k != "norm.bias"}, r"tensor norm\.bias is missing"),
        (
            lambda state: {**state, "patch_embed.proj.weight": torch.zeros(8, 1, 16, 16)},
            r"patch_embed\.proj\.weight has shape \(8, 1, 16, 16\)",
        ),
        (lambda state: {**state, "fc_norm.weight": torch.zeros(8)}, r"unknown tensor fc_norm\.weight"),
        (lambda state: {"v.cls_token": torch.zeros(1)}, "without distillation token"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, change, words):
    path = save(tmp_path / "deit.pth", change(random_deit(14)))
    with pytest.raises(CheckpointError, match=words):
        read_deit(path, HINTS)
