"""Hugging Face's AST: read as the reference says, written as transformers reads it."""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from audiotag.bin import export, import_checkpoint
from audiotag.errors import CheckpointError, ConfigError
from audiotag.export.package import TrainedModel, load_model
from audiotag.interop.ast import export_ast, read_ast
from audiotag.interop.epsilons import Epsilons
from audiotag.interop.hfconfig import encoder_section, extractor_config, model_config, read_classes
from audiotag.interop.hfexport import export_huggingface
from audiotag.interop.hfnames import to_foreign, to_own
from audiotag.interop.huggingface import read_huggingface
from audiotag.interop.importing import hints_of, import_model
from audiotag.interop.modelcard import model_card
from audiotag.interop.sourcemodel import Hints
from audiotag.labels import Label, LabelTable
from audiotag.training.checkpoint import save_checkpoint
from tests.export.models import small_model, sounds
from tests.interop.asts import DATA, FRAMES, LABELS, STRIDES, reference, save_original
from tests.tiny import tiny_checkpoint

CONFIG = {
    "architectures": ["ASTForAudioClassification"],
    "model_type": "audio-spectrogram-transformer",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 192,
    "max_length": FRAMES,
    "id2label": {str(label.index): label.name for label in LABELS},
}
EXTRACTOR = {"feature_extractor_type": "ASTFeatureExtractor", "max_length": FRAMES, "mean": -1.5, "std": 2.5}


def stored(case="s10"):
    """The reference model's weights under the published names."""
    start = f"{case}.hf."
    tensors = load_file(DATA / "hf_tiny.safetensors")
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def write_folder(folder, case="s10", weights=None, config=None, extractor=EXTRACTOR):
    folder.mkdir(exist_ok=True)
    freq_stride, time_stride = STRIDES[case]
    strides = {"frequency_stride": freq_stride, "time_stride": time_stride}
    (folder / "config.json").write_text(json.dumps({**CONFIG, **strides, **(config or {})}))
    if extractor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    save_file(stored(case) if weights is None else weights, folder / "model.safetensors")
    return folder


def imported(folder, labels=None, given=None):
    return import_model(read_huggingface(folder, Hints()), labels, given or {})[0]


def logits_of(model):
    with torch.no_grad():
        features = reference()["input.fbank"]
        return model.tagger.from_features(features, torch.tensor([FRAMES, FRAMES]))


@pytest.mark.parametrize("case", ["s10", "s16"])
def test_logits_with_one_eps_and_with_the_original_three(tmp_path, case):
    folder = write_folder(tmp_path / "hf", case)
    expected = load_file(DATA / "hf_tiny.safetensors")
    model = imported(folder)
    assert Epsilons.of(model.config["encoder"]) == Epsilons(1e-12, 1e-12, 1e-12)
    torch.testing.assert_close(logits_of(model), expected[f"{case}.hf_logits.eps_1e-12"], rtol=0, atol=2e-5)
    three = {"encoder": {"block_norm_eps": 1e-6, "final_norm_eps": 1e-6, "head_norm_eps": 1e-5}}
    torch.testing.assert_close(
        logits_of(imported(folder, given=three)),
        expected[f"{case}.hf_logits.original_eps"],
        rtol=0,
        atol=2e-5,
    )


def test_every_setting_of_the_files_is_honoured(tmp_path):
    settings = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2, "layer_norm_eps": 1e-7}
    model = imported(write_folder(tmp_path / "hf", "s16", config=settings))
    encoder, features = model.config["encoder"], model.config["features"]
    assert (encoder["freq_stride"], encoder["time_stride"], encoder["depth"]) == (16, 16, 2)
    assert (encoder["dropout"], encoder["attention_dropout"]) == (0.1, 0.2)
    assert Epsilons.of(encoder) == Epsilons(1e-7, 1e-7, 1e-7)
    assert (features["mean"], features["std"], features["target_frames"]) == (-1.5, 2.5, FRAMES)
    assert model.tagger.labels.names == LABELS.names
    assert model.loss == "bce"
    config = {"problem_type": "single_label_classification"}
    as_is = {**EXTRACTOR, "do_normalize": False}
    other = imported(write_folder(tmp_path / "hf", config=config, extractor=as_is))
    assert other.loss == "ce"
    assert other.tagger.frontend.mean is None


def test_the_published_constants_stay_those_of_the_preset(tmp_path, caplog):
    published = {"feature_extractor_type": "ASTFeatureExtractor", "max_length": FRAMES}
    model = imported(write_folder(tmp_path / "hf", extractor=published))
    assert model.config["features"]["mean"] is None
    assert model.tagger.frontend.mean == -4.2677393
    (tmp_path / "hf" / "preprocessor_config.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert imported(tmp_path / "hf").tagger.frontend.mean == -4.2677393
    assert "preprocessor_config.json is missing" in caplog.text


def test_names_there_and_back():
    listed = json.loads((DATA / "params_hf_base_527.json").read_text())
    original = json.loads((DATA / "params_base384_stride10_527.json").read_text())
    meta = {name: torch.empty(shape, device="meta") for name, shape in listed}
    own = to_own(meta, Path("x"))
    used = {name: shape for name, shape in original if not name.startswith("v.head")}
    assert len(listed) == 203
    assert len(own) == len(used) == 155
    for name, shape in used.items():
        renamed = name.replace("v.", "encoder.", 1) if name.startswith("v.") else name
        renamed = renamed.replace("mlp_head.0", "head_norm").replace("mlp_head.1", "head")
        assert list(own[renamed].shape) == shape, name
    back = to_foreign(own)
    assert {name: list(value.shape) for name, value in back.items()} == dict(map(tuple, listed))


def test_names_of_later_versions_in_memory(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ASTConfig(**{**CONFIG, "frequency_stride": 10, "time_stride": 10})
    model = transformers.ASTForAudioClassification(config).eval()
    in_memory = model.state_dict()
    assert any(".attention.q_proj." in name for name in in_memory)
    folder = write_folder(tmp_path / "hf", weights=in_memory)
    with torch.no_grad():
        expected = model(reference()["input.fbank"]).logits
    torch.testing.assert_close(logits_of(imported(folder)), expected, rtol=0, atol=2e-5)
    # The bare model has no prefix and no classifier, so that the head is fresh.
    bare = model.audio_spectrogram_transformer
    save_file(bare.state_dict(), folder / "model.safetensors")
    with pytest.raises(ConfigError, match="has no head: name the classes"):
        imported(folder)
    headless = imported(folder, LABELS)
    with torch.no_grad():
        tokens = bare(reference()["input.fbank"]).last_hidden_state[:, :2]
        found, _ = headless.tagger.encoder(reference()["input.fbank"], torch.tensor([FRAMES, FRAMES]))
    torch.testing.assert_close(found, tokens, rtol=0, atol=2e-5)


def test_weights_in_a_bin_file_and_in_several_files(tmp_path):
    folder = write_folder(tmp_path / "hf")
    expected = logits_of(imported(folder))
    weights = stored()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert torch.equal(logits_of(imported(folder)), expected)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for part, inside in parts.items():
        save_file({name: weights[name] for name in inside}, folder / part)
    index = {"weight_map": {name: part for part, inside in parts.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    source = read_huggingface(folder, Hints())
    assert [path.name for path in source.files] == list(parts)
    assert torch.equal(logits_of(imported(folder)), expected)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is missing, which the index names"):
        imported(folder)


def test_half_precision_and_no_bias(tmp_path):
    weights = {name: value.half() for name, value in stored().items()}
    assert imported(write_folder(tmp_path / "hf", weights=weights)).tagger.head.weight.dtype == torch.float32
    parts = (".query.bias", ".key.bias", ".value.bias")
    zeros = {name: value * 0 if name.endswith(parts) else value for name, value in stored().items()}
    expected = logits_of(imported(write_folder(tmp_path / "hf", weights=zeros)))
    without = {name: value for name, value in stored().items() if not name.endswith(parts)}
    folder = write_folder(tmp_path / "hf", weights=without, config={"qkv_bias": False})
    assert torch.equal(logits_of(imported(folder)), expected)


def test_classes_get_their_mids_from_a_list_by_name(tmp_path):
    folder = write_folder(tmp_path / "hf")
    assert imported(folder).tagger.labels[2] == Label(2, "sound 2", "sound 2")
    # The list is in another order and longer; names, not positions, decide.
    rows = [("/m/new", "another"), *((label.mid, label.name) for label in reversed(LABELS))]
    table = LabelTable([Label(i, mid, name) for i, (mid, name) in enumerate(rows)])
    assert imported(folder, table).tagger.labels == LABELS
    with pytest.raises(CheckpointError, match="has a class 'sound 0', which the label list lacks"):
        imported(folder, LabelTable(table[:10]))
    generic = {"id2label": {str(i): f"LABEL_{i}" for i in range(10)}}
    write_folder(tmp_path / "hf", config=generic)
    assert imported(folder, LABELS).tagger.labels == LABELS
    with pytest.raises(CheckpointError, match="10 classes, the label list 11"):
        imported(folder, table)
    twice = {str(i): "same" for i in range(10)}
    assert read_classes({"id2label": twice}, Path("x"))[3] == Label(3, "class_3", "same")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bert"}, r"config\.json: model_type is 'bert', expected 'audio-spectrogram"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'; only 'gelu'"),
        ({"num_mel_bins": 64}, "num_mel_bins is 64; features of ast128 have 128"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide', expected a number"),
        ({"hidden_size": 32}, "does not divide|has shape"),
        ({"patch_size": [16, 16]}, "patch_size is"),
        ({"num_hidden_layers": 1}, r"unknown tensor audio_spectrogram_transformer\.encoder\.layer\.1"),
        ({"num_hidden_layers": 3}, r"encoder\.layer\.2\.layernorm_before\.weight is missing"),
        ({"time_stride": 16}, r"position_embeddings has shape \(1, 230, 48\)"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label must name the classes 0, 1, 2"),
        ({"id2label": ["a"]}, "id2label must name the classes 0, 1, 2"),
        (
            {"id2label": {str(i): f"s{i}" for i in range(9)}},
            "names 9 classes, the classifier has 10",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_key(tmp_path, change, words):
    with pytest.raises((CheckpointError, ConfigError), match=words):
        imported(write_folder(tmp_path / "hf", config=change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampling_rate": 8000}, r"preprocessor_config\.json: sampling_rate is 8000, expected 16000"),
        ({"max_length": 100}, f"max_length is 100, expected {FRAMES}"),
        ({"padding_value": 1.0}, r"padding_value is 1\.0, expected 0\.0"),
        ({"mean": "loud"}, "mean is 'loud', expected a number"),
        ({"feature_extractor_type": "Whisper"}, "feature_extractor_type is 'Whisper'"),
    ],
)
def test_features_that_we_would_compute_otherwise_are_refused(tmp_path, change, words):
    with pytest.raises(CheckpointError, match=words):
        imported(write_folder(tmp_path / "hf", extractor={**EXTRACTOR, **change}))


def test_damaged_and_missing_files(tmp_path):
    folder = write_folder(tmp_path / "hf")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        imported(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        imported(folder)
    weights = stored()
    del weights["audio_spectrogram_transformer.encoder.layer.0.attention.attention.key.weight"]
    with pytest.raises(CheckpointError, match=r"query\.weight but no .*key\.weight"):
        imported(write_folder(folder, weights=weights))
    weights = {**stored(), "classifier.dense.extra": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"unknown tensor classifier\.dense\.extra"):
        imported(write_folder(folder, weights=weights))
    weights = stored()
    del weights["classifier.dense.bias"]
    with pytest.raises(CheckpointError, match=r"classifier\.dense\.(bias|weight)"):
        imported(write_folder(folder, weights=weights))
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(CheckpointError, match=r"config\.json: damaged"):
        imported(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"it has no config\.json"):
        imported(folder)


def reference_model(tmp_path, case="s10"):
    given = {"features": {"target_frames": FRAMES}, "encoder": {"num_heads": 3}}
    source = read_ast(save_original(tmp_path, case), hints_of(given))
    return import_model(source, LABELS, given)[0]


def test_round_trips_are_exact_in_the_weights(tmp_path):
    original = reference_model(tmp_path)
    export_huggingface(tmp_path / "hf", original, {})
    # The names and values of the reference's conversion, and what their loader wants to see.
    written = load_file(tmp_path / "hf" / "model.safetensors")
    assert set(written) == set(stored())
    assert all(torch.equal(written[name], value) for name, value in stored().items())
    with safe_open(tmp_path / "hf" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    again = imported(tmp_path / "hf")
    assert again.tagger.labels == LABELS  # with their MIDs, from labels.csv
    back = torch.load(export_ast(tmp_path / "back", again), weights_only=True)
    first = torch.load(export_ast(tmp_path / "first", original), weights_only=True)
    assert list(back) == list(first)
    assert all(torch.equal(back[name], value) for name, value in first.items())
    export_huggingface(tmp_path / "hf2", again, {})
    for name in ("model.safetensors", "config.json", "preprocessor_config.json", "labels.csv"):
        assert (tmp_path / "hf" / name).read_bytes() == (tmp_path / "hf2" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("loss", "features"),
    [
        ("bce", {}),
        ("ce", {"mean": -3.25, "std": 4.5}),
        ("bce", {"normalization": "none"}),
    ],
)
def test_transformers_loads_what_is_written_and_finds_the_same(tmp_path, loss, features):
    transformers = pytest.importorskip("transformers")
    model = small_model("ast", loss, **features)
    Epsilons(1e-12, 1e-12, 1e-12).give_to(model.tagger)
    model.config["encoder"].update(Epsilons(1e-12, 1e-12, 1e-12).settings())
    export_huggingface(tmp_path / "hf", model, {})
    theirs, report = transformers.ASTForAudioClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    extractor = transformers.ASTFeatureExtractor.from_pretrained(tmp_path / "hf")
    labels = model.tagger.labels
    assert theirs.config.id2label == dict(enumerate(labels.names))
    assert theirs.config.label2id == {label.name: label.index for label in labels}
    kind = "single_label_classification" if loss == "ce" else "multi_label_classification"
    assert theirs.config.problem_type == kind
    # Shorter and longer than the 64 frames that the model hears.
    for num_samples in (6000, 16000):
        clips = sounds(3, num_samples) + 0.1
        inputs = extractor(list(clips.numpy()), sampling_rate=16000, return_tensors="pt")
        lengths = torch.full((3,), num_samples)
        with torch.no_grad():
            own, _ = model.tagger.frontend(clips, lengths)
            # They do not subtract the mean of the clip, which the mean of each frame makes nearly invisible.
            tolerance = 1e-3 if model.tagger.frontend.mean is None else 1e-4
            torch.testing.assert_close(inputs["input_values"], own, rtol=0, atol=tolerance)
            found = theirs.eval()(**inputs).logits
            expected = model.tagger(clips, lengths)
            torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)
            same = theirs(own).logits
        torch.testing.assert_close(same, expected, rtol=0, atol=2e-5)


def test_every_documented_field_is_written():
    features, encoder = small_model("ast").config.values()
    config = model_config(features, encoder, LABELS, "bce", 1e-12)
    assert encoder_section(config, Path("x")) == {
        **{name: encoder[name] for name in encoder if name not in ("drop_path", "freeze")},
        **Epsilons(1e-12, 1e-12, 1e-12).settings(),
    }
    published = extractor_config(1024, -4.2677393, 4.5689974)
    assert published == {
        "feature_extractor_type": "ASTFeatureExtractor",
        "feature_size": 1,
        "sampling_rate": 16000,
        "num_mel_bins": 128,
        "max_length": 1024,
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": True,
        "mean": -4.2677393,
        "std": 4.5689974,
        "return_attention_mask": False,
    }
    assert extractor_config(64, None, None)["do_normalize"] is False


def test_the_eps_that_the_format_cannot_hold_is_measured_and_said(tmp_path, caplog):
    model = reference_model(tmp_path)
    with caplog.at_level(logging.WARNING):
        export_huggingface(tmp_path / "hf", model, {"title": "A tiny AST"})
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["layer_norm_eps"] == 1e-12
    card = (tmp_path / "hf" / "README.md").read_text()
    stated = float(card.split("logits differ by up to ")[1].split(",")[0])
    assert f"logits differ by up to {stated:.1e}" in caplog.text
    # The size that the reference found on its own input: 8e-3 at most.
    assert 1e-4 < stated < 2e-2
    before = logits_of(model)
    other = imported(tmp_path / "hf")
    assert 1e-4 < float((before - logits_of(other)).abs().max()) < 2e-2
    caplog.clear()
    export_huggingface(tmp_path / "hf2", other, {})
    assert not caplog.records
    assert "LayerNorm eps are 1e-12, as in training" in (tmp_path / "hf2" / "README.md").read_text()


def test_the_card_tells_of_labels_metrics_and_licence(tmp_path, monkeypatch):
    state = tiny_checkpoint(seed=1, epoch=2)
    state["config"]["title"] = "My tagger"
    state["metrics"] = {"mAP": 0.512345, "loss": 0.2}
    save_checkpoint(tmp_path / "exp" / "epoch-2.pt", state)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["export", "--exp-dir", "exp", "--to", "hf", "--dest", "hf"])
    export.main()
    card = (tmp_path / "hf" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: audio-classification\n")
    for words in ("# My tagger", "class 0, class 1, class 2", "| mAP | 0.5123 |", "## Licence", "license:"):
        assert words in card, words
    assert ".sigmoid()" in card
    monkeypatch.setattr("sys.argv", ["import_checkpoint", "--from", "hf", "hf", "model"])
    import_checkpoint.main()
    own, again = load_model("exp/epoch-2.pt"), load_model("model")
    for name, value in own.tagger.state_dict().items():
        assert torch.equal(again.tagger.state_dict()[name], value), name


def test_the_card_has_what_evaluations_found():
    card = model_card(
        small_model("ast", "ce"),
        {
            "evaluations": {"valid": {"mAP": 0.5, "d_prime": None}, "eval": {"mAP": 0.25, "d_prime": 1.5}},
            "last_epoch_metrics": {"mAP": 0.75},
            "provenance": {"audiotag": "1.2.3"},
        },
        1e-12,
        None,
    )
    table = ["| metric | valid | eval |", "| --- | --- | --- |", "| mAP | 0.5000 | 0.2500 |"]
    assert "\n".join([*table, "| d_prime | - | 1.5000 |", ""]) in card
    assert "0.75" not in card
    assert "trained with audiotag 1.2.3" in card
    assert ".softmax(-1)" in card


def test_what_the_format_cannot_express_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--to hf writes an AST, not the encoder zipformer"):
        export_huggingface(tmp_path, small_model("zipformer"), {})
    with pytest.raises(ConfigError, match="features of preset ast128, this model's are of beats128"):
        export_huggingface(tmp_path, small_model("ast", preset="beats128", target_frames=64), {})
    model = small_model("ast")
    twice = LabelTable([Label(i, f"/m/{i}", f"name {i % 6}") for i in range(7)])
    model.tagger.labels = twice
    with pytest.raises(ConfigError, match="two are called name 0"):
        export_huggingface(tmp_path, TrainedModel(model.tagger, "bce", model.config), {})
    assert not list(tmp_path.iterdir())


def test_a_labels_file_of_other_classes_is_left_out(tmp_path, caplog):
    export_huggingface(tmp_path / "hf", reference_model(tmp_path), {})
    shutil.copy(tmp_path / "hf" / "labels.csv", tmp_path)
    LabelTable([Label(i, f"/m/{i}", f"other {i}") for i in range(10)]).write(tmp_path / "hf" / "labels.csv")
    with caplog.at_level(logging.WARNING):
        model = imported(tmp_path / "hf")
    assert "labels.csv has other classes" in caplog.text
    assert model.tagger.labels[1].mid == "sound 1"
    assert math.isfinite(float(logits_of(model).sum()))
