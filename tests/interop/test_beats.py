"""Files of BEATs: imported without loss, written back the same, refused if something is wrong with them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from audiotag.bin import export, import_checkpoint
from audiotag.errors import CheckpointError, ConfigError
from audiotag.export.package import TrainedModel, load_model
from audiotag.interop.beats import export_beats, read_beats
from audiotag.interop.formats import find_format
from audiotag.interop.importing import import_model
from audiotag.interop.sourcemodel import Hints
from audiotag.labels import Label, LabelTable
from tests.encoders.beats.reference import facts, part, vectors
from tests.tiny import tiny_config, tiny_labels, tiny_tagger

STATE = part(vectors("tiny_model"), "state.")
TABLE = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
MIDS = {index: f"/m/{(7 * index) % 10}" for index in range(10)}  # in an order of its own
NAMES = LabelTable([Label(i, f"/m/{i}", f"Sound {i}") for i in range(10)])
SAMPLES = torch.tensor([19200, 11000])


def content(**changes) -> dict:
    """What a fine-tuned file of the reference's size holds."""
    made = {"cfg": facts("tiny_model_cfg"), "model": dict(STATE), "label_dict": dict(MIDS)}
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def save(path: Path, made) -> Path:
    torch.save(made, path)
    return path


@pytest.fixture
def fine_tuned(tmp_path) -> Path:
    return save(tmp_path / "BEATs_iter3_finetuned.pt", content())


@pytest.fixture
def pretrained(tmp_path) -> Path:
    cfg = {**facts("tiny_model_cfg"), "finetuned_model": False}
    state = {name: value for name, value in STATE.items() if not name.startswith("predictor.")}
    return save(tmp_path / "BEATs_iter3.pt", content(cfg=cfg, model=state, label_dict=None))


def imported(path: Path, labels: LabelTable | None = None, **settings) -> TrainedModel:
    return import_model(read_beats(path, Hints(settings)), labels, {"encoder": settings})[0]


def test_a_fine_tuned_model_computes_what_the_original_does(fine_tuned):
    model = imported(fine_tuned, padding="original")
    waveform = vectors("fbank")["waveform"]
    with torch.no_grad():
        logits = model.tagger(waveform, SAMPLES)
    torch.testing.assert_close(logits, vectors("tiny_model")["masked.act.logits"], atol=1e-5, rtol=0)
    assert model.loss == "bce"
    assert [label.mid for label in model.tagger.labels] == list(MIDS.values())


def test_by_default_padding_is_counted_right(fine_tuned):
    assert imported(fine_tuned).config["encoder"]["padding"] == "exact"


def test_a_label_dict_may_list_its_indices_in_any_order(tmp_path):
    path = save(tmp_path / "x.pt", content(label_dict=dict(reversed(MIDS.items()))))
    assert [label.mid for label in imported(path).tagger.labels] == [MIDS[index] for index in range(10)]


def test_names_come_from_a_list_in_any_order(fine_tuned):
    labels = imported(fine_tuned, NAMES).tagger.labels
    assert [(label.mid, label.name) for label in labels] == [
        (mid, f"Sound {mid.removeprefix('/m/')}") for mid in MIDS.values()
    ]
    with pytest.raises(CheckpointError, match="has a class '/m/9', which the label list lacks"):
        imported(fine_tuned, LabelTable(NAMES[:9]))


def test_every_field_is_honoured(tmp_path):
    changed = {
        "dropout": 0.11,
        "attention_dropout": 0.12,
        "activation_dropout": 0.13,
        "dropout_input": 0.14,
        "predictor_dropout": 0.15,
        "encoder_layerdrop": 0.16,
        "layer_wise_gradient_decay_ratio": 0.6,
        "max_distance": 50,
        "deep_norm": False,
    }
    cfg = {**facts("tiny_model_cfg"), **changed}
    encoder = imported(save(tmp_path / "x.pt", content(cfg=cfg))).config["encoder"]
    assert encoder == {
        "freeze": False,
        "name": "beats",
        "patch_size": 16,
        "patch_dim": 32,
        "patch_bias": False,
        "embed_dim": 48,
        "depth": 3,
        "num_heads": 4,
        "feedforward_dim": 96,
        "conv_kernel": 16,
        "conv_groups": 4,
        "deep_norm": False,
        "num_buckets": 32,
        "max_distance": 50,
        "gated_bias": True,
        "input_dropout": 0.14,
        "dropout": 0.11,
        "attention_dropout": 0.12,
        "activation_dropout": 0.13,
        "output_dropout": 0.15,
        "layer_drop": 0.16,
        "gradient_decay": 0.6,
        "last_layer_only": False,
        "padding": "exact",
    }


def test_what_a_file_does_not_say_is_read_from_its_tensors(tmp_path, fine_tuned):
    path = save(tmp_path / "x.pt", content(cfg={"deep_norm": True, "max_distance": 64}))
    whole, sparse = (imported(file).config["encoder"] for file in (fine_tuned, path))
    rates = {"dropout": 0.1, "attention_dropout": 0.1, "output_dropout": 0.1}  # the original's defaults
    assert sparse == {**whole, **rates}


@pytest.mark.parametrize(("name", "value"), [("max_distance", 64), ("deep_norm", True)])
def test_what_cannot_be_seen_is_not_guessed(tmp_path, name, value):
    cfg = facts("tiny_model_cfg")
    del cfg[name]
    path = save(tmp_path / "x.pt", content(cfg=cfg))
    with pytest.raises(CheckpointError, match=rf"does not say its {name}.*give encoder\.{name}, (800|true)"):
        imported(path)
    assert imported(path, **{name: value}).config["encoder"][name] == value


def test_a_round_trip_changes_nothing(fine_tuned, tmp_path):
    back = export_beats(tmp_path / "out", imported(fine_tuned))
    first, again = (torch.load(file, weights_only=True) for file in (fine_tuned, back))
    assert again["cfg"] == first["cfg"]
    assert again["label_dict"] == first["label_dict"]
    assert list(again["model"]) == in_original_order()
    assert again["model"].keys() == first["model"].keys()
    assert all(torch.equal(again["model"][name], first["model"][name]) for name in first["model"])


def in_original_order() -> list[str]:
    """Names of the small model in the order in which a file of the original has them."""
    return [
        name.removeprefix("encoder.").replace("decoder.linear_out.", "predictor.")
        for name, _ in facts("tiny_espnet_names")
    ]


def test_the_order_is_that_of_the_published_files():
    listed = [name for name, _ in facts("params_finetuned_527")]
    small = [name for name in listed if "layers." not in name or int(name.split(".")[2]) < 3]
    assert small == in_original_order()


def test_files_with_the_table_in_the_first_layer_alone_and_newer_names(tmp_path, fine_tuned):
    state = {name: value for name, value in STATE.items() if name not in (TABLE.format(1), TABLE.format(2))}
    for index, old in enumerate(("weight_g", "weight_v")):
        state[f"encoder.pos_conv.0.parametrizations.weight.original{index}"] = state.pop(
            f"encoder.pos_conv.0.{old}"
        )
    other = imported(save(tmp_path / "x.pt", content(model=state)))
    expected = imported(fine_tuned).tagger.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in other.tagger.state_dict().items())


def test_a_pretrained_model_gets_a_fresh_head_for_given_labels(pretrained):
    with pytest.raises(ConfigError, match=r"has no head: name the classes .* with --labels"):
        imported(pretrained)
    model = imported(pretrained, tiny_labels(3))
    assert model.tagger.head.weight.shape == (3, 48)
    ours = model.tagger.encoder.state_dict()
    assert torch.equal(ours["encoder.layers.2.fc1.weight"], STATE["encoder.layers.2.fc1.weight"])


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def with_field(**fields) -> dict:
    return content(cfg={**facts("tiny_model_cfg"), **fields})


def without(name: str) -> dict:
    return {key: value for key, value in STATE.items() if key != name}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (content(cfg=None), "has its settings under 'cfg'"),
        (content(model=None), "has its weights under 'model'"),
        (
            content(model={**STATE, TABLE.format(1): STATE[TABLE.format(1)] + 1}),
            r"layers\.1.* differs",
        ),
        (
            content(model={**STATE, TABLE.format(2): STATE[TABLE.format(2)] * (1 + 1e-6)}),
            r"layers\.2.* differs",
        ),
        (content(model={**STATE, "decoder.weight": torch.zeros(1)}), "unknown tensor decoder.weight"),
        (content(model=without("encoder.layers.1.fc2.bias")), "tensor encoder.layers.1.fc2.bias is missing"),
        (content(model={**STATE, "layer_norm.bias": torch.zeros(5)}), r"layer_norm.bias has shape \(5,\)"),
        (content(model=without("predictor.bias")), "says finetuned_model, but tensor predictor.bias"),
        (with_field(predictor_class=9), "predictor_class 9, its head has 10"),
        (content(label_dict={0: "/m/0"}), "does not name the 10 classes"),
        (content(label_dict={**MIDS, 3: "/m/7"}), "are not 10 different names"),
        (content(label_dict={**MIDS, 3: 4}), "are not 10 different names"),
        (with_field(layer_norm_first=True), "layer_norm_first True; only False"),
        (with_field(activation_fn="glu"), "activation_fn 'glu'; only 'gelu'"),
        (with_field(relative_position_embedding=False), "relative_position_embedding False; only True"),
        (with_field(encoder_ffn_embed_dim=64), "fc1.weight has shape"),
        (content(extra=Evil()), "refused"),
        ({}, "has its settings under 'cfg'"),
        ([], "has its settings under 'cfg'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, capfd, made, words):
    path = save(tmp_path / "x.pt", made)
    with pytest.raises(CheckpointError, match=words) as error:
        imported(path)
    assert str(path) in str(error.value)
    assert "executed" not in capfd.readouterr().out


def test_unknown_fields_are_named(tmp_path, caplog):
    cfg = {**facts("tiny_model_cfg"), "mask_ratio": 0.75}
    imported(save(tmp_path / "x.pt", content(cfg=cfg)))
    assert "fields of its cfg that are not known here: mask_ratio" in caplog.text


def test_a_bad_value_of_a_field_is_refused(tmp_path):
    cfg = {**facts("tiny_model_cfg"), "encoder_layerdrop": 1.5}
    with pytest.raises(ConfigError, match=r"layer_drop"):
        imported(save(tmp_path / "x.pt", content(cfg=cfg)))


def test_the_format_is_found_out(fine_tuned, pretrained):
    assert find_format(fine_tuned) == find_format(pretrained) == "beats"


def test_only_a_beats_with_its_own_features_is_written(fine_tuned, tmp_path, caplog):
    other = TrainedModel(tiny_tagger(), "bce", tiny_config())
    with pytest.raises(ConfigError, match="--to beats writes a BEATs, not the encoder ast"):
        export_beats(tmp_path, other)
    model = imported(fine_tuned)
    with pytest.raises(ConfigError, match="of preset beats128, this model's are of icefall80"):
        export_beats(tmp_path, TrainedModel(model.tagger, "bce", changed(model, preset="icefall80")))
    caplog.clear()
    model.tagger.frontend.mean = 14.0
    export_beats(tmp_path, TrainedModel(model.tagger, "ce", model.config))
    assert "this model by 14.0" in caplog.text and "trained for their softmax" in caplog.text


def changed(model: TrainedModel, **features) -> dict:
    return {**model.config, "features": {**model.config["features"], **features}}


def test_the_commands(fine_tuned, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    NAMES.write(tmp_path / "labels.csv")

    def run(module, *arguments):
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
        module.main()

    options = ["--labels", tmp_path / "labels.csv", "--set", "encoder.padding=original"]
    run(import_checkpoint, "--from", "beats", fine_tuned, tmp_path / "model", *options)
    model = load_model(tmp_path / "model")
    assert model.tagger.labels[1] == Label(1, "/m/7", "Sound 7")
    assert model.config["encoder"]["padding"] == "original"
    run(export, "--model", tmp_path / "model", "--to", "beats", "--dest", tmp_path / "back")
    first, again = (torch.load(p, weights_only=True) for p in (fine_tuned, tmp_path / "back" / "beats.pt"))
    assert again["cfg"] == first["cfg"] and again["label_dict"] == first["label_dict"]
    assert all(torch.equal(again["model"][name], value) for name, value in first["model"].items())
