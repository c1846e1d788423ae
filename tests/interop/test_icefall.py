"""icefall's Zipformer taggers: imported without loss, written back the same, refused if they do not fit."""

from __future__ import annotations

import json
import pathlib
from pathlib import Path

import pytest
import torch

from audiotag.bin import export, import_checkpoint
from audiotag.errors import CheckpointError, ConfigError
from audiotag.export.package import load_model
from audiotag.interop.icefall import export_icefall, infer_encoder, read_icefall
from audiotag.interop.importing import import_model
from audiotag.interop.sourcemodel import Hints
from tests.export.models import small_model

DATA = Path(__file__).parents[1] / "data" / "zipformer"
COUNTS = {"normal": 64_264_454, "small": 22_125_218}


@pytest.fixture(scope="module")
def model():
    return small_model("zipformer")


@pytest.fixture
def state(model, tmp_path):
    """The weights as icefall calls them."""
    return torch.load(export_icefall(tmp_path / "given", model), weights_only=True)["model"]


def save(path, content):
    torch.save(content, path)
    return path


def import_icefall(path, kind="model", labels=None, settings=None):
    """What import_checkpoint makes of a file."""
    settings = settings or {}
    source = read_icefall(path, Hints(settings, weights=kind))
    return import_model(source, labels, {"encoder": settings})[0]


def assert_same(imported, weights):
    own = imported.tagger.state_dict()
    assert len(own) == len(weights)
    for name, tensor in own.items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("size", ["normal", "small"])
def test_sizes_of_the_published_models_follow_from_their_weights(size):
    listed = json.loads((DATA / f"parameters_{size}.json").read_text())
    shapes = dict(listed["parameters"])
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == COUNTS[size]
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    inferred = infer_encoder(weights, {}, Path("x.pt"))
    for name in set(inferred) - {"encoder_unmasked_dim"}:
        known = listed["config"][name]
        assert inferred[name] == (list(known) if isinstance(known, list) else known), name
    normal = [192, 192, 256, 256, 256, 192]
    assert inferred["encoder_unmasked_dim"] == (normal if size == "normal" else [192] * 6)


def test_a_round_trip_changes_nothing(model, state, tmp_path):
    imported = import_icefall(tmp_path / "given" / "pretrained.pt", labels=model.tagger.labels)
    assert_same(imported, model.tagger.state_dict())
    x = torch.randn(2, 20000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([20000, 15000])
    with torch.no_grad():
        assert torch.equal(imported.tagger(x, lengths), model.tagger(x, lengths))
    again = torch.load(export_icefall(tmp_path / "again", imported), weights_only=True)
    assert list(again) == ["model"]
    assert list(again["model"]) == list(state)
    assert all(torch.equal(again["model"][name], state[name]) for name in state)
    assert {"encoder_embed.conv.0.weight", "encoder.downsample_output.bias", "classifier.1.bias"} <= set(
        state
    )


@pytest.mark.parametrize("kind", ["model", "model_avg"])
def test_training_checkpoints_with_paths_and_the_prefix_of_ddp(model, state, tmp_path, kind):
    average = {name: 0.5 * value.double() for name, value in state.items()}
    checkpoint = {
        "model": {f"module.{name}": value for name, value in state.items()},
        "model_avg": average,
        "optimizer": {"state": {}},
        "exp_dir": pathlib.PosixPath("zipformer/exp"),
        "batch_idx_train": 7,
    }
    imported = import_icefall(
        save(tmp_path / "epoch-1.pt", checkpoint), kind=kind, labels=model.tagger.labels
    )
    factor = 0.5 if kind == "model_avg" else 1.0
    assert_same(imported, {name: factor * value for name, value in model.tagger.state_dict().items()})


def test_heads_that_weights_do_not_tell_can_be_given(tmp_path):
    model = small_model("zipformer")
    path = export_icefall(tmp_path, model)
    # 2 heads of 4, as inferred, are 4 heads of 2 as well, by the same weights.
    settings = {"num_heads": [4, 8, 4]}
    imported = import_icefall(path, labels=model.tagger.labels, settings=settings)
    encoder = imported.config["encoder"]
    assert (encoder["num_heads"], encoder["pos_head_dim"]) == ([4, 8, 4], [2, 2, 2])
    assert (encoder["query_head_dim"], encoder["value_head_dim"]) == ([4, 4, 4], [3, 3, 3])
    other = import_icefall(path, settings={"pos_head_dim": 2}).config["encoder"]
    assert {**other, "pos_head_dim": [2, 2, 2]} == encoder


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {**state, "classifier.1.weight": torch.zeros(7, 9)}, "classifier.1.weight has shape"),
        (lambda state: {k: v for k, v in state.items() if "encoders.1.downsample" not in k}, "does not fit"),
        (
            lambda state: {k: v for k, v in state.items() if k != "encoder_embed.out.bias"},
            "tensor encoder_embed.out.bias is missing",
        ),
        (lambda state: {**state, "decoder.weight": torch.zeros(1)}, "unknown tensor decoder.weight"),
        (lambda state: {**state, "x.chunkwise_conv.bias": torch.zeros(1)}, "causal"),
        (lambda state: {"conv.weight": torch.zeros(1)}, "not a Zipformer of icefall"),
        (lambda state: {**state, "classifier.1.bias": [1, 2]}, "classifier.1.bias is not a tensor"),
        (lambda state: 3, "not a model of icefall"),
        (lambda state: Evil(), "refused"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(state, tmp_path, capsys, change, words):
    with pytest.raises(CheckpointError, match=words):
        import_icefall(save(tmp_path / "changed.pt", {"model": change(state)}))
    assert "executed" not in capsys.readouterr().out


def test_other_mistakes(state, model, tmp_path):
    path = tmp_path / "given" / "pretrained.pt"
    with pytest.raises(CheckpointError, match="no model_avg"):
        import_icefall(path, kind="model_avg")
    with pytest.raises(CheckpointError, match="has 7 classes, the label list 6"):
        import_icefall(path, labels=type(model.tagger.labels)(model.tagger.labels[:6]))
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        import_icefall(tmp_path / "gone.pt")
    (tmp_path / "bytes.pt").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"bytes\.pt: (damaged|refused)"):
        import_icefall(tmp_path / "bytes.pt")
    with pytest.raises(ConfigError, match=r"encoder\.num_head"):
        import_icefall(path, settings={"num_head": 4})
    with pytest.raises(CheckpointError, match="icefall knows Zipformers"):
        export_icefall(tmp_path, small_model("ast"))


def test_the_commands(state, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = ["--from", "icefall", "given/pretrained.pt", "model", "--labels", "given/labels.csv"]
    monkeypatch.setattr("sys.argv", ["import_checkpoint", *source, "--set", "encoder.output_dropout=0.2"])
    import_checkpoint.main()
    imported = load_model("model")
    assert_same(imported, model.tagger.state_dict())
    assert imported.tagger.labels == model.tagger.labels
    assert imported.config["encoder"]["output_dropout"] == 0.2
    monkeypatch.setattr("sys.argv", ["export", "--model", "model", "--to", "icefall", "--dest", "back"])
    export.main()
    back = torch.load("back/pretrained.pt", weights_only=True)["model"]
    assert all(torch.equal(back[name], value) for name, value in state.items())
    for override, words in {
        "training.epochs=3": "only settings of encoder and features",
        "features.preset=ast128": r"does not fit.*tensor encoder\.encoder_embed",
    }.items():
        monkeypatch.setattr("sys.argv", ["import_checkpoint", *source, "--set", override])
        with pytest.raises(ConfigError, match=words):
            import_checkpoint.main()
