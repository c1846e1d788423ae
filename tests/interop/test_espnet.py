"""ESPnet's classifiers with a BEATs: classes and settings from their configuration, weights as they are."""

from __future__ import annotations

import pytest
import torch
import yaml

from audiotag.bin import export, import_checkpoint
from audiotag.errors import CheckpointError, ConfigError
from audiotag.export.package import TrainedModel, load_model
from audiotag.interop.espnet import export_espnet, read_espnet
from audiotag.interop.formats import find_format
from audiotag.interop.importing import import_model
from audiotag.interop.sourcemodel import Hints
from audiotag.labels import Label, LabelTable
from tests.encoders.beats.reference import facts, part, vectors
from tests.tiny import tiny_config, tiny_tagger

NAMES = [
    "Speech",
    "Music",
    "Dog bark",
    "Baby's cry",
    "Bell",
    "Wind, noise",
    "Rain",
    "Hum",
    "Tick-tock",
    "Car",
]
TOKENS = [name.replace(" ", "_") for name in NAMES]
CFG = facts("tiny_model_cfg")
CHANGED = {"layer_wise_gradient_decay_ratio": 0.3, "encoder_layerdrop": 0.1, "dropout": 0.0}


def espnet_state() -> dict[str, torch.Tensor]:
    """The recorded weights by ESPnet's names and in its order."""
    recorded = part(vectors("tiny_model"), "state.")
    made = {}
    for name, shape in facts("tiny_espnet_names"):
        original = name.replace("decoder.linear_out.", "predictor.").removeprefix("encoder.")
        made[name] = recorded[original]
        assert list(made[name].shape) == shape
    return made


def config(**changes) -> dict:
    made = {
        "token_list": [*TOKENS, "<unk>"],
        "encoder": "beats",
        "encoder_conf": {"beats_config": {**CFG, **CHANGED}},
        "decoder": "linear",
        "decoder_conf": {"pooling": "mean"},
        "model_conf": {"classification_type": "multi-label"},
    }
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "espnet", config())


def write(folder, settings, state=None):
    folder.mkdir(exist_ok=True)
    torch.save(state or espnet_state(), folder / "120epoch.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def imported(path, labels=None, **settings) -> TrainedModel:
    return import_model(read_espnet(path, Hints(settings)), labels, {"encoder": settings})[0]


def test_it_computes_what_espnet_does(folder):
    model = imported(folder, padding="original")
    with torch.no_grad():
        logits = model.tagger(vectors("fbank")["waveform"], torch.tensor([19200, 11000]))
    torch.testing.assert_close(logits, vectors("extras")["espnet.logits"], atol=1e-5, rtol=0)
    assert model.loss == "bce"
    encoder = model.config["encoder"]
    assert (encoder["gradient_decay"], encoder["layer_drop"], encoder["dropout"]) == (0.3, 0.1, 0.0)
    assert encoder["output_dropout"] == 0.0


def test_classes_are_those_of_the_list_without_special_tokens(folder, tmp_path):
    assert imported(folder).tagger.labels.names == NAMES
    later = write(tmp_path / "later", config(token_list=["<blank>", *TOKENS, "<unk>"]))
    assert imported(later).tagger.labels.names == NAMES
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "token_list").write_text("".join(f"{token}\n" for token in [*TOKENS, "<unk>"]))
    listed = write(tmp_path / "far", {**config(), "token_list": "token_list"})
    assert imported(listed).tagger.labels.names == NAMES


def test_mids_come_from_a_list_in_any_order(folder):
    table = LabelTable([Label(i, f"/m/{name[:3]}", name) for i, name in enumerate(reversed(NAMES))])
    labels = imported(folder, table).tagger.labels
    assert [(label.mid, label.name) for label in labels] == [(f"/m/{name[:3]}", name) for name in NAMES]


def test_what_the_configuration_leaves_out_is_the_pretrained_models(tmp_path):
    """Or must be given."""
    sparse = config(encoder_conf={"beats_ckpt_path": "BEATs.pt", "beats_config": CHANGED})
    folder = write(tmp_path / "x", sparse)
    with pytest.raises(CheckpointError, match=r"does not say its deep_norm.*give encoder\.deep_norm"):
        imported(folder)
    given = imported(folder, deep_norm=True, max_distance=50).config["encoder"]
    assert given["max_distance"] == 50
    torch.save(
        {"cfg": {**CFG, "max_distance": 64, "dropout": 0.4, "attention_dropout": 0.2}}, folder / "BEATs.pt"
    )
    encoder = imported(folder).config["encoder"]
    assert (encoder["max_distance"], encoder["dropout"], encoder["attention_dropout"]) == (64, 0.0, 0.2)
    torch.save({"model": {}}, folder / "BEATs.pt")
    with pytest.raises(CheckpointError, match=r"BEATs\.pt: not a file of BEATs"):
        imported(folder)


def test_other_constants_of_the_features_are_honoured(tmp_path):
    settings = config(encoder_conf={"beats_config": CFG, "fbank_mean": 11.7, "fbank_std": 10.6})
    frontend = imported(write(tmp_path / "x", settings)).tagger.frontend
    assert (frontend.mean, frontend.std) == (11.7, 10.6)


def test_multi_class_models_are_of_cross_entropy(tmp_path):
    settings = config(model_conf={"classification_type": "multi-class"})
    assert imported(write(tmp_path / "x", settings)).loss == "ce"


def test_without_a_configuration_classes_are_given_in_their_order(folder):
    (folder / "config.yaml").unlink()
    table = LabelTable([Label(i, f"/m/{i}", name) for i, name in enumerate(NAMES)])
    model = imported(folder / "120epoch.pth", table, deep_norm=True, max_distance=64)
    assert model.tagger.labels == table


@pytest.mark.parametrize("text", ["a: " + "[" * 5000, "day: 2001-13-45", "a: [1", "a: \ud800"])
def test_a_configuration_that_cannot_be_read_is_named(folder, text):
    (folder / "config.yaml").write_text(text, errors="surrogatepass")
    with pytest.raises(CheckpointError, match=r"config\.yaml: damaged"):
        imported(folder)


def test_a_round_trip_changes_nothing(folder, tmp_path):
    written = export_espnet(tmp_path / "out", imported(folder))
    first, again = (torch.load(file, weights_only=True) for file in (folder / "120epoch.pth", written))
    assert list(again) == list(first)
    assert all(torch.equal(again[name], first[name]) for name in first)
    settings = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert settings["token_list"] == [*TOKENS, "<unk>"]
    expected = {**CFG, **CHANGED}
    for name in ("finetuned_model", "predictor_class", "predictor_dropout"):
        del expected[name]
    assert settings["encoder_conf"]["beats_config"] == expected
    assert settings["model_conf"] == {"classification_type": "multi-label"}
    assert (tmp_path / "out" / "token_list").read_text().split() == [*TOKENS, "<unk>"]
    other = imported(tmp_path / "out")
    assert other.config == imported(folder).config
    assert other.tagger.labels.names == NAMES


def test_tensors_that_count_padding_are_left_out(tmp_path):
    state = espnet_state()
    state["encoder.patch_embedding_pad.weight"] = torch.ones(1, 1, 16, 16)
    state["encoder.raw2fbank_pad.weight"] = torch.ones(1, 1, 400)
    assert imported(write(tmp_path / "x", config(), state)).tagger.labels.names == NAMES


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder": "conformer"}, "encoder is 'conformer'; only 'beats'"),
        ({"decoder": "rnn"}, "decoder is 'rnn'; only 'linear'"),
        ({"decoder_conf": {"pooling": "max"}}, "decoder_conf.pooling is 'max'; only 'mean'"),
        ({"encoder_conf": {"max_layer": 2}}, "encoder_conf.max_layer is 2; only None"),
        ({"encoder_conf": {"use_weighted_representation": True}}, "use_weighted_representation is True"),
        ({"encoder_conf": {"downsampling_rate": 2}}, "downsampling_rate is 2; only 1"),
        ({"encoder_conf": []}, "does not say its deep_norm"),
        ({"encoder_conf": [1]}, "encoder_conf is not a section"),
        ({"model_conf": {"classification_type": "other"}}, "classification_type is 'other'; multi-label and"),
        ({"token_list": TOKENS[:9]}, "token_list has 9 classes, the head 10"),
        ({"token_list": [*TOKENS[:9], TOKENS[0]]}, "token_list has 9 classes, the head 10"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, settings, words):
    with pytest.raises(CheckpointError, match=words):
        imported(write(tmp_path / "x", config(**settings)))


def test_files_that_do_not_fit_are_refused(folder, tmp_path):
    torch.save(espnet_state(), folder / "121epoch.pth")
    with pytest.raises(CheckpointError, match=r"one \.pth file is expected.*120epoch\.pth, 121epoch\.pth"):
        imported(folder)
    state = {**espnet_state(), "encoder.layer_weights": torch.ones(3, 1)}
    with pytest.raises(CheckpointError, match="unknown tensor layer_weights"):
        imported(write(tmp_path / "x", config(), state))
    with pytest.raises(CheckpointError, match=r"unknown tensor ctc\.bias"):
        imported(write(tmp_path / "x", config(), {**espnet_state(), "ctc.bias": torch.ones(3)}))
    (folder / "121epoch.pth").unlink()
    (folder / "config.yaml").write_text("- a\n")
    with pytest.raises(CheckpointError, match="not a configuration of ESPnet"):
        imported(folder)
    (folder / "config.yaml").write_text("a: [\n")
    with pytest.raises(CheckpointError, match="damaged"):
        imported(folder)


def test_the_format_is_found_out(folder):
    assert find_format(folder) == find_format(folder / "120epoch.pth") == "espnet"


def test_only_a_beats_is_written(tmp_path):
    with pytest.raises(ConfigError, match="--to espnet writes a BEATs, not the encoder ast"):
        export_espnet(tmp_path, TrainedModel(tiny_tagger(), "bce", tiny_config()))


def test_two_classes_of_one_name_are_refused(folder, tmp_path):
    model = imported(folder)
    model.tagger.labels = LabelTable([Label(i, f"/m/{i}", "Bell") for i in range(10)])
    with pytest.raises(CheckpointError, match="two classes have one name"):
        export_espnet(tmp_path, model)


def test_the_commands(folder, tmp_path, monkeypatch):
    def run(module, *arguments):
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
        module.main()

    run(import_checkpoint, "--from", "espnet", folder, tmp_path / "model")
    assert load_model(tmp_path / "model").tagger.labels.names == NAMES
    run(export, "--model", tmp_path / "model", "--to", "espnet", "--dest", tmp_path / "back")
    first, again = (
        torch.load(path, weights_only=True)
        for path in (folder / "120epoch.pth", tmp_path / "back" / "model.pth")
    )
    assert all(torch.equal(again[name], first[name]) for name in first)
