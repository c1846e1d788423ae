"""Activation checkpointing and compilation: the same numbers, the same names, and usable where models are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from audiotag.config import Config
from audiotag.errors import ConfigError
from audiotag.frontend import Frontend
from audiotag.tagger import Tagger, build_tagger
from audiotag.training.acceleration import RECOMPILE_LIMIT, accelerate
from tests.tiny import tiny_labels

RANDOM = {"dropout": 0.3, "attention_dropout": 0.2, "drop_path": 0.4}
SHAPE = (4, 64, 128)
LENGTHS = torch.full((4,), 64)


@pytest.fixture(autouse=True)
def one_graph_each(monkeypatch):
    """Compile without generating code, which takes a minute on a CPU: what is captured is the same."""
    torch.compiler.reset()
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_module(self, backend="aot_eager"))
    yield
    torch.compiler.reset()


def make(depth: int = 2, **settings) -> Tagger:
    """A tagger in training mode, the same each time."""
    torch.manual_seed(0)
    encoder = {"name": "ast", "embed_dim": 16, "depth": depth, "num_heads": 2, "freq_stride": 16}
    config = Config.model_validate(
        {
            "features": {"preset": "ast128", "target_frames": 64},
            "encoder": {**encoder, "time_stride": 16, **RANDOM, **settings},
        }
    )
    sections = config.model_dump(mode="json")
    return build_tagger(sections["features"], sections["encoder"], tiny_labels()).train()


def gradients(tagger: nn.Module, seed: int = 5) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Gradients of all parameters, and the random state that is left behind."""
    features = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(seed)
    tagger(features, LENGTHS).square().sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in tagger.named_parameters()}
    tagger.zero_grad()
    return found, torch.get_rng_state()


def assert_same(one, other) -> None:
    assert one[0].keys() == other[0].keys()
    for name, gradient in one[0].items():
        assert torch.equal(gradient, other[0][name]), name
    assert torch.equal(one[1], other[1])


@pytest.mark.parametrize(
    ("compile", "checkpointing"),
    [
        ("off", True),
        pytest.param("blocks", True, marks=pytest.mark.slow),
        pytest.param("blocks", False, marks=pytest.mark.slow),
        pytest.param("model", True, marks=pytest.mark.slow),
        pytest.param("model", False, marks=pytest.mark.slow),
    ],
)
def test_gradients_are_the_same_to_the_last_bit(compile, checkpointing):
    expected = gradients(make())
    tagger = make()
    accelerate(tagger, compile=compile, activation_checkpointing=checkpointing)
    assert_same(gradients(tagger), expected)
    assert_same(gradients(tagger), expected)
    assert any(not torch.equal(g, expected[0][n]) for n, g in gradients(tagger, seed=6)[0].items())


def test_activations_are_not_kept():
    def kept(checkpointing: bool) -> int:
        tagger, sizes = make(depth=4), []
        accelerate(tagger, activation_checkpointing=checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            tagger(torch.zeros(SHAPE), LENGTHS)
        return sum(sizes)

    assert kept(True) < kept(False) / 3


@pytest.mark.parametrize(
    "compile", ["off", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("model", "blocks"))]
)
def test_names_and_evaluation_stay(compile):
    plain, fast = make().eval(), make()
    accelerate(fast, compile=compile, activation_checkpointing=True)
    gradients(fast)
    assert list(fast.state_dict()) == list(plain.state_dict())
    fast.load_state_dict(plain.state_dict())
    fast.eval()
    features = torch.randn(SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(fast(features, LENGTHS), plain(features, LENGTHS))
        torch.testing.assert_close(fast(features[:3], LENGTHS[:3]), plain(features[:3], LENGTHS[:3]))


def test_nothing_is_computed_twice_in_evaluation(monkeypatch):
    tagger = make()
    accelerate(tagger, activation_checkpointing=True)
    monkeypatch.setattr(
        "audiotag.training.acceleration.checkpoint", lambda *args, **settings: pytest.fail("checkpointed")
    )
    with torch.no_grad():
        tagger(torch.zeros(SHAPE), LENGTHS)
    tagger.eval()(torch.zeros(SHAPE), LENGTHS).sum().backward()


def test_a_copy_computes_with_its_own_weights():
    tagger = make()
    accelerate(tagger, activation_checkpointing=True)
    twin = copy.deepcopy(tagger)
    nn.init.zeros_(twin.encoder.blocks[0].mlp.fc2.weight)
    ours, theirs = gradients(tagger)[0], gradients(twin)[0]
    assert not torch.equal(ours["head.weight"], theirs["head.weight"])
    assert_same(gradients(tagger), gradients(make()))


@pytest.mark.slow
def test_blocks_share_what_was_compiled():
    """Depth and rates of dropped paths must not multiply compilations, up to torch's limit."""

    def compilations(depth: int) -> int:
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        tagger = make(depth)
        accelerate(tagger, compile="blocks")
        gradients(tagger)
        with torch.no_grad():
            tagger.eval()(torch.zeros(SHAPE), LENGTHS)
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    # The first block, whose paths are never dropped, the others and the last, which computes two tokens.
    assert compilations(7) == compilations(3) == 5
    assert torch._dynamo.config.recompile_limit >= RECOMPILE_LIMIT


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"activation_checkpointing": True}, "activation_checkpointing"), ({"compile": "blocks"}, "blocks")],
)
def test_an_encoder_without_blocks_is_refused(settings, key):
    class Flat(nn.Module):
        output_dim = 4

    tagger = Tagger(Frontend("ast128", target_frames=64), Flat(), tiny_labels(), None)
    with pytest.raises(ConfigError, match=rf"{key} needs an encoder made of blocks, which Flat is not"):
        accelerate(tagger, **settings)
