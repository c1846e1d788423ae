"""Models exported to ONNX and TorchScript give what they give here, for other batches than the traced one."""

from __future__ import annotations

import csv
import json
import warnings

import numpy as np
import pytest
import torch

from audiotag.export.graph import sherpa_labels
from audiotag.labels import Label, LabelTable
from tests.export.models import NAMES, small_model, sounds

# Of probabilities, in float32: the order of sums differs.
TOLERANCE = 2e-5
# The mean for random weights; trained ones lose less.
INT8_TOLERANCE = 0.08
# Samples of the clips of a batch. 0.05 s are 5 frames, fewer than a Zipformer needs; 45 s are more than
# icefall's exporter allows.
BATCHES = ([16000], [16000, 9000, 5000], [800], [700, 1600], [45 * 16000, 3 * 16000], [8000] * 5)


@pytest.fixture(params=["onnx", "torchscript"])
def run(request, exported):
    """A function that exports a model and gives a function from features and lengths to probabilities."""

    def run(model):
        folder = exported(request.param, model)
        return run_onnx(folder / "model.onnx") if request.param == "onnx" else run_script(folder / "model.ts")

    return run


def run_onnx(path):
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x, lengths: session.run(None, {"x": x.numpy(), "x_lens": lengths.numpy()})[0]


def run_script(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.load(path)
    return lambda x, lengths: script(x, lengths).numpy()


def features_of(model, lengths, seed):
    """What a program feeds the graph: finished where inputs have one length, else as a filter bank has it."""
    frontend = model.tagger.frontend
    waveforms = sounds(len(lengths), max(lengths), seed)
    lengths = torch.tensor(lengths)
    if frontend.target_frames:
        return frontend(waveforms, lengths)
    raw, frames = frontend.extract(waveforms, lengths)
    raw = raw[:, : int(frames.max())]
    inside = torch.arange(raw.shape[1]) < frames[:, None]
    return raw.where(inside[:, :, None], frontend.preset.pad_value), frames


@torch.no_grad()
def probabilities(model, lengths, seed):
    """What the tagger itself gives for the same clips."""
    logits = model.tagger(sounds(len(lengths), max(lengths), seed), torch.tensor(lengths))
    return (logits.softmax(-1) if model.loss == "ce" else logits.sigmoid()).numpy()


def assert_agrees(model, run, batches, tolerance=TOLERANCE):
    seen = []
    for seed, lengths in enumerate(batches):
        found = run(*features_of(model, lengths, seed))
        expected = probabilities(model, lengths, seed)
        assert found.shape == (len(lengths), len(NAMES))
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
        seen.append(expected)
    assert np.ptp(np.concatenate(seen), axis=0).max() > 0.01


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_an_ast_of_any_batch_size(run, loss):
    model = small_model("ast", loss)
    assert_agrees(model, run(model), BATCHES[:4])


@pytest.mark.parametrize(("loss", "features"), [("bce", {}), ("ce", {"mean": -8.0, "std": 4.0})])
def test_a_zipformer_of_any_length_and_batch_size(run, loss, features):
    """Also where it was trained on normalised features, of clips too short for it, and of 45 s."""
    model = small_model("zipformer", loss, **features)
    assert_agrees(model, run(model), BATCHES if loss == "bce" else BATCHES[:4])


@pytest.mark.parametrize("features", [{}, {"mean": 12.0, "std": 4.0}])
def test_a_beats_of_any_length_and_batch_size(run, features):
    """Also of clips shorter than a patch, and of more patches than distances differ."""
    model = small_model("beats", **features)
    assert_agrees(model, run(model), BATCHES if not features else BATCHES[:4])


@pytest.mark.parametrize("encoder", ["beats", "zipformer"])
def test_it_does_not_matter_what_is_behind_a_clip(run, encoder):
    """Least of all to one that is shorter than the encoder needs."""
    model = small_model(encoder)
    run, lengths = run(model), [16000, 9000, 640]
    x, frames = features_of(model, lengths, 3)
    behind = torch.arange(x.shape[1]) >= frames[:, None]
    for filling in (0.0, 50.0):
        found = run(x.masked_fill(behind[:, :, None], filling), frames)
        np.testing.assert_allclose(found, probabilities(model, lengths, 3), rtol=0, atol=TOLERANCE)


def test_the_length_of_a_clip_counts(run):
    """The mean over embeddings leaves out what is behind a clip."""
    model = small_model("zipformer")
    run = run(model)
    x, lengths = features_of(model, [16000, 8000], 0)
    assert np.abs(run(x, lengths)[1] - run(x, lengths.clamp(min=100))[1]).max() > 1e-3


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_what_is_written_beside_the_model(exported, kind):
    model = small_model("zipformer", "ce", mean=-8.0, std=4.0)
    folder = exported(kind, model)
    description = json.loads((folder / "config.json").read_text())
    assert description["probabilities"] == "softmax" and description["loss"] == {"name": "ce"}
    assert description["encoder"]["encoder_dim"] == [32, 48, 32] and description["num_classes"] == 7
    assert description["info"] == {"weights": "epoch1"}
    assert all((folder / name).is_file() for name in description["files"])
    assert LabelTable.read(folder / "labels.csv") == model.tagger.labels
    content = (folder / "labels.csv").read_bytes()
    assert b'\n1,/m/01,"Siren, two-tone"\n' in content and b"\r" not in content


@pytest.mark.parametrize("encoder", ["ast", "beats", "zipformer"])
def test_matrices_of_eight_bits(exported, encoder):
    onnx = pytest.importorskip("onnx")
    model = small_model(encoder)
    path = exported("onnx", model) / "model.int8.onnx"
    for seed, lengths in enumerate(BATCHES[:2]):
        found = run_onnx(path)(*features_of(model, lengths, seed))
        assert np.abs(found - probabilities(model, lengths, seed)).mean() < INT8_TOLERANCE
    graph = onnx.load(path).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    matrices = [
        kinds[node.input[1]]
        for node in graph.node
        if node.op_type == "MatMulInteger" and node.input[1] in kinds
    ]
    assert matrices and set(matrices) == {onnx.TensorProto.INT8}


def test_the_interface_is_that_of_icefall(exported):
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(exported("onnx", small_model("zipformer")) / "model.onnx")

    def shape(value):
        return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]

    assert [(value.name, shape(value)) for value in proto.graph.input] == [
        ("x", ["N", "T", 80]),
        ("x_lens", ["N"]),
    ]
    assert [(value.name, shape(value)) for value in proto.graph.output] == [("logits", ["N", 7])]
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert metadata.pop("url").startswith("https://")
    assert metadata == {
        "model_type": "zipformer2",
        "version": "1",
        "model_author": "k2-fsa",
        "comment": "zipformer2 audio tagger",
    }
    assert [entry.version for entry in proto.opset_import if entry.domain == ""] == [17]


def test_labels_that_sherpa_would_misread_are_changed():
    labels = LabelTable([Label(0, "a,b", 'the "loud" one, again')])
    [_, row] = csv.reader(sherpa_labels(labels).splitlines())
    assert row == ["0", "a;b", "the 'loud' one, again"]
