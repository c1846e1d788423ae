"""What acts on BEATs in training alone: layer drop, gradients that decay, the published run's cut of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from audiotag.config import Config
from audiotag.labels import LabelTable
from audiotag.optim.groups import parameter_groups
from audiotag.optim.optimizers import build_optimizer
from audiotag.tagger import Tagger, build_tagger
from audiotag.training.acceleration import accelerate
from audiotag.training.flops import training_flops
from tests.encoders.beats.reference import LABELS, SIZES, TABLE, tiny_beats
from tests.optim.sections import optimizer_section

X = torch.randn(3, 64, 128, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([64, 40, 64])


@pytest.fixture
def eager_compile(monkeypatch):
    """Compile without generating code, which takes a minute on a CPU: what is captured is the same."""
    torch.compiler.reset()
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_module(self, backend="aot_eager"))
    yield
    torch.compiler.reset()


def tiny_tagger(labels: LabelTable = LABELS, **settings) -> Tagger:
    """A tagger in training mode, the same each time."""
    torch.manual_seed(0)
    tree = {"features": {"preset": "beats128"}, "encoder": {"name": "beats", **SIZES, **settings}}
    sections = Config.model_validate(tree).model_dump(mode="json")
    tagger = build_tagger(sections["features"], sections["encoder"], labels).train()
    nn.init.normal_(tagger.encoder.relative_attention_bias.weight)
    return tagger


def gradients(tagger: nn.Module, seed: int = 5) -> dict[str, torch.Tensor | None]:
    """Of every parameter."""
    torch.manual_seed(seed)
    tagger(X, LENGTHS).square().sum().backward()
    found = {name: parameter.grad for name, parameter in tagger.named_parameters()}
    tagger.zero_grad()
    return found


def layer_index(name: str) -> int | None:
    """The layer of a parameter of the encoder; None for one before the layers."""
    parts = name.split(".")
    return int(parts[3]) if parts[1:3] == ["encoder", "layers"] else None


def test_gradients_decay_layer_by_layer():
    whole, decayed = gradients(tiny_tagger()), gradients(tiny_tagger(gradient_decay=0.3))
    for name, gradient in whole.items():
        if name.startswith("head") or name == f"encoder.{TABLE}":
            continue
        index = layer_index(name)
        power = 3 if index is None else 2 - index
        torch.testing.assert_close(decayed[name], 0.3**power * gradient, rtol=1e-4, atol=1e-7, msg=name)
    torch.testing.assert_close(decayed["head.weight"], whole["head.weight"])


def test_the_table_gets_the_part_of_each_layer():
    """Its own gradient is the sum over layers, each by the factor of that layer."""
    ratios = (1.0, 0.5, 0.25)
    found = [gradients(tiny_tagger(gradient_decay=ratio))[f"encoder.{TABLE}"] for ratio in ratios]
    # Of a polynomial of degree 2 in the ratio, whose constant is what the last layer says.
    powers = torch.tensor([[1.0, ratio, ratio**2] for ratio in ratios])
    parts = torch.linalg.solve(powers, torch.stack(found).flatten(1)).view(3, *found[0].shape)
    last = gradients(tiny_tagger(last_layer_only=True))[f"encoder.{TABLE}"]
    torch.testing.assert_close(parts[0], last, rtol=1e-3, atol=1e-5 * float(found[0].abs().max()))
    assert all(part.abs().max() > 1e-3 * found[0].abs().max() for part in parts)


def test_the_last_layer_only():
    """As in effect in the published run: the last layer, the table through it, and the head."""
    whole, cut = gradients(tiny_tagger()), gradients(tiny_tagger(last_layer_only=True))
    for name, gradient in cut.items():
        if name.startswith("head") or layer_index(name) == 2:
            torch.testing.assert_close(gradient, whole[name], msg=name)
        elif name == f"encoder.{TABLE}":
            assert gradient.any() and not torch.allclose(gradient, whole[name])
        else:
            assert gradient is None, name


def test_what_is_not_trained_stays_whatever_the_weight_decay():
    tagger = tiny_tagger(last_layer_only=True)
    optimizer = build_optimizer(optimizer_section(name="adamw", lr=0.1, decay_all=True), tagger)
    before = {name: value.clone() for name, value in tagger.state_dict().items()}
    gradients_in_place(tagger)
    optimizer.step()
    changed = {name for name, value in tagger.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if layer_index(name) not in (2,)} == {
        "head.weight",
        "head.bias",
        f"encoder.{TABLE}",
    }


def gradients_in_place(tagger: nn.Module) -> None:
    torch.manual_seed(5)
    tagger(X, LENGTHS).square().sum().backward()


def test_nothing_is_kept_for_what_is_not_trained():
    def kept(**settings) -> int:
        tagger, sizes = tiny_tagger(depth=6, **settings), []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            tagger(X, LENGTHS)
        return sum(sizes)

    assert kept(last_layer_only=True) < kept() / 3


def dropped_layers(encoder: nn.Module, seed: int) -> list[int]:
    """Layers without a gradient after a pass."""
    encoder.zero_grad()
    torch.manual_seed(seed)
    encoder(X, LENGTHS)[0].square().sum().backward()
    return [index for index, layer in enumerate(encoder.blocks) if layer.fc1.weight.grad is None]


def test_layers_are_dropped_as_often_as_configured():
    encoder = tiny_beats(depth=6, layer_drop=0.3, patch_dim=8, embed_dim=16, feedforward_dim=8).train()
    dropped = [dropped_layers(encoder, seed) for seed in range(100)]
    assert sum(map(len, dropped)) / 600 == pytest.approx(0.3, abs=0.05)
    assert {index for layers in dropped for index in layers} == set(range(6))
    assert encoder.skips_parameters and not tiny_beats().skips_parameters


def test_a_dropped_layer_is_the_identity_and_gradients_decay_all_the_same():
    encoder = tiny_beats(layer_drop=0.5, gradient_decay=0.5).train()
    seed = next(seed for seed in range(50) if dropped_layers(encoder, seed) == [1])
    torch.manual_seed(seed)
    found = encoder(X, LENGTHS)[0]
    found.square().sum().backward()
    short = tiny_beats(depth=2)
    state = {
        name.replace("layers.2.", "layers.1."): value
        for name, value in encoder.state_dict().items()
        if "layers.1." not in name
    }
    short.load_state_dict(state)
    for layer in short.blocks:
        layer.residual_scale = encoder.blocks[0].residual_scale
    expected = short(X, LENGTHS)[0]
    torch.testing.assert_close(found, expected)
    short.zero_grad()
    expected.square().sum().backward()
    # Twice for the gradients of the first pass, which searched for the seed.
    ours, theirs = (model.blocks[0].fc1.weight.grad for model in (encoder, short))
    torch.testing.assert_close(ours / 2, 0.25 * theirs, rtol=1e-4, atol=1e-6)


def test_the_draws_come_from_the_generator_of_the_cpu_alone():
    encoder = tiny_beats(layer_drop=0.5).train()
    assert dropped_layers(encoder, 3) == dropped_layers(encoder, 3)
    assert any(dropped_layers(encoder, seed) != dropped_layers(encoder, 3) for seed in range(9))


RANDOM = {"dropout": 0.2, "attention_dropout": 0.1, "layer_drop": 0.3, "gradient_decay": 0.5}


@pytest.mark.parametrize(
    "compile", ["off", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("blocks", "model"))]
)
def test_checkpointing_and_compiling_change_no_gradient(compile, eager_compile):
    settings = RANDOM if compile == "off" else {"gradient_decay": 0.5}
    expected = gradients(tiny_tagger(**settings))
    tagger = tiny_tagger(**settings)
    accelerate(tagger, compile=compile, activation_checkpointing=compile != "model")
    for name, gradient in gradients(tagger).items():
        if gradient is None:
            assert expected[name] is None, name
        else:
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_one_program_serves_whichever_layers_are_dropped(eager_compile):
    tagger = tiny_tagger(layer_drop=0.5)
    accelerate(tagger, compile="model")
    plain = tiny_tagger(layer_drop=0.5)
    for seed in range(6):
        ours, theirs = gradients(tagger, seed), gradients(plain, seed)
        for name, gradient in theirs.items():
            gradient = torch.zeros_like(ours[name]) if gradient is None else gradient
            torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 12


@pytest.mark.slow
def test_layers_share_what_was_compiled(eager_compile):
    def compilations(depth: int) -> int:
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        tagger = tiny_tagger(depth=depth)
        for layer in tagger.encoder.blocks:
            layer.residual_scale = 1.5
        accelerate(tagger, compile="blocks")
        gradients(tagger)
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    assert compilations(5) == compilations(2) == 1


def test_operations_are_counted():
    """Attention's too: more than twice as many for twice the length."""
    tagger = tiny_tagger(layer_drop=0.1)
    short, long = (training_flops(tagger, (1, frames, 128)) for frames in (320, 640))
    assert long > 2.05 * short > 0


def test_factors_and_positions_do_not_decay():
    tagger = tiny_tagger()
    names = {id(parameter): name for name, parameter in tagger.named_parameters()}
    groups = parameter_groups(tagger, lr=1.0, weight_decay=0.1)
    decayed = {
        names[id(parameter)] for group in groups if group["weight_decay"] for parameter in group["params"]
    }
    others = ("bias", "grep_a", "weight_g", "norm.weight", TABLE)
    assert not [name for name in decayed if name.endswith(others)]
    assert "encoder.encoder.pos_conv.0.weight_v" in decayed
