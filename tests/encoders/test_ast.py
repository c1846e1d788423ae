"""The AST against activations, losses, gradients and Hugging Face logits of the reference model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from audiotag.encoders.ast import Ast, DropPath, patch_grid
from audiotag.encoders.registry import build_encoder
from audiotag.errors import ConfigError, DataError
from audiotag.frontend import Frontend
from audiotag.labels import Label, LabelTable
from audiotag.losses import BinaryCrossEntropy
from audiotag.tagger import Tagger

DATA = Path(__file__).parents[1] / "data" / "ast"
STRIDES = {"s10": (10, 10), "s16": (16, 16), "s12_10": (12, 10)}
FRAMES = 204
LABELS = LabelTable([Label(i, f"/m/{i}", f"class {i}") for i in range(10)])
BCE = BinaryCrossEntropy(torch.ones(len(LABELS)))

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def reference() -> Tensors:
    return load_file(DATA / "tiny_model.safetensors")


@pytest.fixture(scope="module")
def hugging_face() -> Tensors:
    return load_file(DATA / "hf_tiny.safetensors")


def tiny_tagger(case: str, head_norm_eps: float = 1e-5, **eps: float) -> Tagger:
    """A tagger of the reference model's size, with the encoder's own eps unless they are given."""
    encoder = Ast(
        input_frames=FRAMES,
        num_mel_bins=128,
        embed_dim=48,
        depth=2,
        num_heads=3,
        freq_stride=STRIDES[case][0],
        time_stride=STRIDES[case][1],
        **eps,
    )
    return Tagger(Frontend("ast128", target_frames=FRAMES), encoder, LABELS, head_norm_eps)


def our_name(name: str) -> str:
    """The tagger's name of an original parameter."""
    renamed = re.sub(r"^v\.", "encoder.", name)
    return renamed.replace("mlp_head.0.", "head_norm.").replace("mlp_head.1.", "head.")


def part(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors under a prefix, by our names; without the original's unused heads."""
    found = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {our_name(name): tensor for name, tensor in found.items() if not name.startswith("v.head")}


@pytest.fixture(params=STRIDES)
def case(request) -> str:
    return request.param


@pytest.fixture
def tagger(case, reference) -> Tagger:
    model = tiny_tagger(case)
    model.load_state_dict(part(reference, f"{case}.state."), strict=True)
    return model.eval()


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def test_activations(case, tagger, reference):
    x = reference["input.fbank"]
    lengths = torch.tensor([FRAMES, FRAMES])
    ast = tagger.encoder
    with torch.no_grad():
        tokens = ast.embed(x)
        first = ast.blocks[0](tokens)
        second = ast.blocks[1](first)
        summary, num_embeddings = ast(x, lengths)
        activations = {
            "patch_embed": ast.patch_embed(x),
            "tokens": tokens,
            "block.0.attn": ast.blocks[0].attn(ast.blocks[0].norm1(tokens[:1])),
            "block.0": first,
            "block.1": second,
            "norm": ast.norm(second[:1]),
            "pooled": summary.mean(dim=1),
            "logits": tagger(x, lengths),
        }
    recorded = part(reference, f"{case}.act.")
    assert len(recorded) == (3 if case == "s12_10" else len(activations))
    for name, expected in recorded.items():
        assert_near(activations[name], expected, 2e-5 if name == "logits" else 1e-5)
    assert num_embeddings.tolist() == [2, 2]
    # The last block leaves out what nobody reads; what it computes is the same.
    assert_near(summary, ast.norm(second)[:, :2], 2e-6)


def test_losses(case, tagger, reference):
    target = reference["input.target"]
    logits = tagger(reference["input.fbank"], torch.tensor([FRAMES, FRAMES]))
    assert_near(BCE(logits, target), reference[f"{case}.loss.bce"][0])
    # The original cuts fractional targets to integers before it looks for the largest.
    cross_entropy = functional.cross_entropy(logits, target.long().argmax(dim=1))
    assert_near(cross_entropy, reference[f"{case}.loss.ce"][0])


@pytest.mark.parametrize("case", ["s10", "s16"], indirect=False)
def test_every_gradient(case, reference):
    model = tiny_tagger(case)
    model.load_state_dict(part(reference, f"{case}.state."))
    logits = model(reference["input.fbank"], torch.tensor([FRAMES, FRAMES]))
    BCE(logits, reference["input.target"]).backward()
    expected = part(reference, f"{case}.grad.")
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        tolerance = 1e-3 * float(expected[name].abs().max()) + 1e-8
        error = float((gradient - expected[name]).abs().max())
        assert error <= tolerance, f"{name}: {error:.3g} > {tolerance:.3g}"


@pytest.mark.parametrize("case", ["s16"], indirect=False)
def test_eps_of_each_norm(tagger, reference):
    x = reference["unit.ln.input"]
    for norm, name in [
        (tagger.encoder.blocks[0].norm1, "block0_norm1"),
        (tagger.encoder.norm, "final_norm"),
        (tagger.head_norm, "head_norm"),
    ]:
        assert_near(norm(x), reference[f"unit.ln.{name}"], 1e-6)
    assert [block.norm2.eps for block in tagger.encoder.blocks] == [1e-6, 1e-6]


@pytest.mark.parametrize("case", ["s10", "s16"], indirect=False)
@pytest.mark.parametrize(
    "eps, name",
    [
        ({"block_norm_eps": 1e-12, "final_norm_eps": 1e-12, "head_norm_eps": 1e-12}, "eps_1e-12"),
        ({}, "original_eps"),
    ],
)
def test_hugging_face_logits(case, eps, name, reference, hugging_face):
    model = tiny_tagger(case, **eps)
    state = part(reference, f"{case}.state.")
    for index in range(2):
        prefix = f"{case}.hf.audio_spectrogram_transformer.encoder.layer.{index}.attention.attention."
        for kind in ("weight", "bias"):
            state[f"encoder.blocks.{index}.attn.qkv.{kind}"] = torch.cat(
                [hugging_face[f"{prefix}{role}.{kind}"] for role in ("query", "key", "value")]
            )
    model.load_state_dict(state)
    logits = model.eval()(reference["input.fbank"], torch.tensor([FRAMES, FRAMES]))
    assert_near(logits, hugging_face[f"{case}.hf_logits.{name}"], 2e-5)


@pytest.mark.parametrize(
    "num_frames, stride, grid",
    [
        (1024, 10, (12, 101)),
        (1024, 12, (10, 85)),
        (1024, 14, (9, 73)),
        (1024, 16, (8, 64)),
        (512, 10, (12, 50)),
        (128, 10, (12, 12)),
        (16, 10, (12, 1)),
    ],
)
def test_grid(num_frames, stride, grid):
    assert patch_grid(128, num_frames, 16, stride, stride) == grid


def test_grid_too_small():
    with pytest.raises(ConfigError, match="patch_size 16 does not fit features of 15 frames"):
        Ast(input_frames=15, num_mel_bins=128, embed_dim=8, depth=1, num_heads=1)


@pytest.mark.parametrize("shape", [(2, 203, 128), (2, 205, 128), (2, 204, 80)])
def test_other_sizes_are_refused(shape):
    model = tiny_tagger("s16").encoder
    with pytest.raises(DataError, match=rf"takes 204 frames of 128 .* found {shape[1]} frames of {shape[2]}"):
        model(torch.zeros(shape), torch.tensor([shape[1]] * 2))


def test_registry():
    encoder = build_encoder("ast", num_mel_bins=128, target_frames=64, embed_dim=16, depth=1, num_heads=2)
    assert encoder.output_dim == 16
    with pytest.raises(ConfigError, match="no encoder 'xformer'; there are ast"):
        build_encoder("xformer", num_mel_bins=80, target_frames=None)
    with pytest.raises(ConfigError, match=r"set features\.target_frames"):
        build_encoder("ast", num_mel_bins=80, target_frames=None)


def test_initial_weights():
    torch.manual_seed(0)
    model = Ast(input_frames=512, num_mel_bins=128, embed_dim=192, depth=2, num_heads=3)
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if name.startswith("patch_embed"):
            assert values.abs().max() <= 1 / 16
            assert values.std() == pytest.approx(1 / 16 / 3**0.5, rel=0.1)
        elif "norm" in name:
            assert torch.all(values == (1 if name.endswith("weight") else 0))
        elif name.endswith("bias"):
            assert torch.all(values == 0)
        else:
            assert values.std() == pytest.approx(0.02, rel=0.15), name
            assert abs(values.mean()) < 0.005


def test_dropout_and_drop_path_act_in_training_only():
    torch.manual_seed(0)
    model = Ast(
        input_frames=64,
        num_mel_bins=128,
        embed_dim=16,
        depth=3,
        num_heads=2,
        dropout=0.2,
        attention_dropout=0.2,
        drop_path=0.4,
    )
    assert [float(block.drop_path.keep) for block in model.blocks] == pytest.approx([1.0, 0.8, 0.6])
    x, lengths = torch.randn(4, 64, 128), torch.full((4,), 64)
    model.eval()
    assert torch.equal(model(x, lengths)[0], model(x, lengths)[0])
    model.train()
    assert not torch.equal(model(x, lengths)[0], model(x, lengths)[0])


@pytest.mark.parametrize("setting", ["dropout", "attention_dropout", "drop_path"])
def test_each_rate_acts(setting):
    torch.manual_seed(0)
    sizes = {"input_frames": 64, "num_mel_bins": 128, "embed_dim": 16, "depth": 2, "num_heads": 2}
    model = Ast(**sizes, **{setting: 0.5})
    for block in model.blocks:  # initial weights are too small for attention to matter
        nn.init.normal_(block.attn.qkv.weight)
    x, lengths = torch.randn(4, 64, 128), torch.full((4,), 64)
    assert not torch.equal(model(x, lengths)[0], model(x, lengths)[0])


def test_drop_path_keeps_the_mean():
    torch.manual_seed(0)
    y = DropPath(0.25)(torch.ones(20000, 1, 1))
    kept = y[y != 0]
    assert torch.all(kept == torch.tensor(1 / 0.75))
    assert len(kept) / len(y) == pytest.approx(0.75, abs=0.02)
    assert y.mean() == pytest.approx(1.0, abs=0.02)
