"""Single modules of the Zipformer against vectors of the original: values, gradients, changed gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from audiotag.encoders.gradientscale import ScaleGradient
from audiotag.encoders.zipformer.activations import (
    BiasNorm,
    BiasNormGradient,
    Swoosh,
    SwooshGradient,
    SwooshLinearGradient,
)
from audiotag.encoders.zipformer.attention import (
    AttentionWeights,
    NonlinAttention,
    SelfAttention,
    constant_attention,
)
from audiotag.encoders.zipformer.balancer import Balancer, mean_over_deviation
from audiotag.encoders.zipformer.gradients import LimitGradient, PenaltyGradient
from audiotag.encoders.zipformer.layer import ConvModule, FeedForward
from audiotag.encoders.zipformer.positions import PositionTable, middle, relative_positions
from audiotag.encoders.zipformer.stack import Downsample
from audiotag.encoders.zipformer.steps import Schedule
from audiotag.encoders.zipformer.subsampling import ConvNeXt
from audiotag.encoders.zipformer.whiten import Whiten, whiteness
from tests.encoders.zipformer.reference import CPU, deviation, facts, part, step_of, vectors

VECTORS = vectors("components_train")
ARGUMENTS = facts("components_train")
ON = torch.tensor(True)
TRAINS = pytest.mark.parametrize("trains", [False, True], ids=["evaluation", "training"])


def case(prefix: str) -> dict[str, torch.Tensor]:
    return part(VECTORS, f"{prefix}.")


def input_of(given: dict[str, torch.Tensor]) -> torch.Tensor:
    """The input, clips first."""
    return given["x"].transpose(0, 1).clone().requires_grad_()


def check(module: nn.Module, given: dict, x: torch.Tensor, y: torch.Tensor, first: int = 1) -> None:
    """Output, and gradients of the input and all parameters."""
    grad_out = given["grad_out"].transpose(0, first)
    y.backward(grad_out)
    assert deviation(y.detach(), given["y"].transpose(0, first)) < 1e-5
    expected = given["grad_x"] if x.shape == given["grad_x"].shape else given["grad_x"].transpose(0, 1)
    assert deviation(x.grad, expected) < 1e-5
    gradients = part(given, "grad.")
    assert gradients.keys() == dict(module.named_parameters()).keys()
    for name, parameter in module.named_parameters():
        assert deviation(parameter.grad, gradients[name]) < 1e-5, name


def load(module: nn.Module, given: dict, trains: bool = False) -> nn.Module:
    module.load_state_dict(part(given, "param."), strict=True)
    return module.train(trains)


@pytest.mark.parametrize("name", ["conv_like", "layer_output", "hidden", "keys", "inactive"])
def test_balancer(name):
    given = case(f"balancer.{name}")
    arguments = ARGUMENTS[f"balancer.{name}"]
    assert arguments.pop("grad_scale") == 0.04
    balancer = Balancer(**arguments)
    x = given["x"].clone().requires_grad_()
    y = balancer(x, step_of(balancer, active=True))
    y.backward(given["grad_out"])
    assert torch.equal(y, given["x"])
    assert deviation(x.grad, given["grad_in"]) < 1e-5
    assert torch.equal(x.grad, given["grad_out"]) == (name == "inactive")


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("dims", [(0, 1, 2), (0, 2, 1), (2, 0, 1)])
def test_gradients_have_the_layout_that_compilers_count_on(active, dims):
    """That of the gradient from behind, whatever the layout of what went in."""
    grad = torch.randn(4, 6, 8).permute(dims)
    x = 10 * torch.randn(grad.shape) + 3
    active = torch.tensor(active)
    limits = torch.tensor([0.0, 0.1, 0.1, 0.2])
    balanced = torch.ops.audiotag.balance(x, grad, limits, active, 2)
    whitened = torch.ops.audiotag.whiten(x, grad, torch.tensor(0.5), active, torch.ones(1), 0, 1, 0.1, 2)
    for changed in (balanced, whitened):
        assert changed.stride() == torch.empty_like(grad).stride()
        assert torch.equal(changed, grad) != bool(active)


def test_channels_without_power_are_left_alone():
    balancer = Balancer(min_abs=0.2, max_abs=1.0)
    x = torch.tensor([0.0, 1e-12, -1e-12]).expand(7, 3).clone().requires_grad_()
    grad = torch.randn(7, 3)
    balancer(x, step_of(balancer, active=True)).backward(grad)
    assert torch.equal(x.grad, grad)


def test_balancer_limits():
    stated = facts("schedules")["balancer_limits"]
    for share, expected in stated["proportion_to_mean_over_std"].items():
        assert mean_over_deviation(float(share)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["one_group_active", "one_group_inactive", "three_groups_active"])
def test_whiten(name):
    given, arguments = case(f"whiten.{name}"), ARGUMENTS[f"whiten.{name}"]
    whiten = Whiten(arguments["limit"], arguments["grad_scale"], arguments["num_groups"])
    assert deviation(whiteness(given["x"], arguments["num_groups"])[0], given["metric"]) < 1e-5
    x = given["x"].clone().requires_grad_()
    step = step_of(whiten, active=True)
    y = whiten(x, step)
    y.backward(given["grad_out"])
    assert torch.equal(y, given["x"])
    assert deviation(x.grad, given["grad_in"]) < 1e-5
    assert float(step.whitening[0]) == pytest.approx(0.25 if arguments["active"] else 0.025)


def test_the_direction_of_whitening_is_the_gradient_of_the_metric():
    x = torch.randn(20, 3, 12, dtype=torch.float64, requires_grad=True)
    metric, slope = whiteness(x, 3)
    (exact,) = torch.autograd.grad(metric, x)
    assert torch.nn.functional.cosine_similarity(exact.flatten(), slope.flatten(), dim=0) > 1 - 1e-9


@pytest.mark.parametrize("kind", ["l", "r"])
@TRAINS
def test_swoosh(kind, trains):
    given = case("swoosh")
    x = given["x"].clone().requires_grad_()
    y = Swoosh(kind).train(trains)(x)
    y.sum().backward()
    assert deviation(y.detach(), given[f"{kind}.y"]) < 1e-5
    assert deviation(x.grad, given[f"{kind}.dy"]) < 1e-5
    assert torch.isfinite(Swoosh(kind)(torch.tensor([-1e30, 1e30]))).all()


@pytest.mark.parametrize("name", ["plain", "log_scale_above_limit", "log_scale_below_limit"])
@TRAINS
def test_bias_norm(name, trains):
    limited = ARGUMENTS[f"biasnorm.{name}"]["range_limiter_applied"]
    if limited and not trains:
        pytest.skip("limits act in training alone")
    given = case(f"biasnorm.{name}")
    norm = BiasNorm(given["bias"].numel()).train(trains)
    norm.load_state_dict({name: given[name] for name in ("bias", "log_scale")})
    x = given["x"].clone().requires_grad_()
    y = norm(x, step_of(norm, active=limited) if trains else None)
    y.backward(given["grad_out"])
    assert deviation(y.detach(), given["y"]) < 1e-5
    assert deviation(x.grad, given["grad_x"]) < 1e-5
    assert deviation(norm.bias.grad, given["grad_bias"]) < 1e-5
    assert deviation(norm.log_scale.grad, given["grad_log_scale"]) < 1e-5


@pytest.mark.parametrize(
    ("name", "function", "settings"),
    [
        ("scale_grad", ScaleGradient, (0.2,)),
        ("limit", LimitGradient, (torch.tensor(0.2), torch.tensor(1.0), ON)),
        ("penalty", PenaltyGradient, (25.0, 1e-4, ON)),
    ],
)
def test_changed_gradients(name, function, settings):
    given = case(name)
    x = given["x"].clone().requires_grad_()
    y = function.apply(x, *settings)
    y.backward(given["grad_out"])
    assert torch.equal(y, given["x"])
    assert deviation(x.grad, given["grad_in"]) < 1e-5


def test_softmax():
    given = case("softmax")
    x = given["x"].clone().requires_grad_()
    y = x.softmax(dim=-1)
    y.backward(given["grad_out"])
    assert deviation(y.detach(), given["y"]) < 1e-5
    assert deviation(x.grad, given["grad_in"]) < 1e-5


@pytest.mark.parametrize(("dim", "frames"), [(48, 1), (48, 2), (48, 5), (48, 20), (24, 7)])
def test_relative_positions(dim, frames):
    expected = VECTORS[f"relpos.dim{dim}.T{frames}"]
    table = relative_positions(frames, dim, CPU)
    assert table.dtype == torch.float32
    torch.testing.assert_close(table[:-1], expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(PositionTable(dim)(frames, CPU)[:-1], expected, atol=2e-6, rtol=0)


def test_far_positions():
    offsets, expected = VECTORS["relpos.dim48.offsets"], VECTORS["relpos.dim48.offsets_table"]
    table = relative_positions(2000, 48, CPU)
    torch.testing.assert_close(table[offsets + 1999], expected, atol=2e-5, rtol=0)


def test_tables_are_made_once_and_grow():
    positions = PositionTable(24)
    first = positions(30, CPU)
    assert positions(7, CPU).data_ptr() == middle(first, 7).data_ptr()
    assert positions(3000, CPU).shape == (6000, 24)
    assert torch.equal(positions(30, CPU), first)


@pytest.mark.parametrize("name", ["ds2_T1", "ds2_T7", "ds4_T9", "ds8_T16"])
def test_downsampling(name):
    given = case(f"downsample.{name}")
    module = Downsample(given["bias"].numel())
    module.load_state_dict({"bias": given["bias"]})
    x = input_of(given)
    y = module(x)
    y.backward(given["grad_out"].transpose(0, 1))
    assert deviation(y.detach(), given["y"].transpose(0, 1)) < 1e-5
    assert deviation(x.grad, given["grad_x"].transpose(0, 1)) < 1e-5
    assert float((module.bias.grad - given["grad_bias"]).abs().max()) < 1e-5


@TRAINS
def test_convnext(trains):
    given = case("convnext")
    module = load(ConvNeXt(6), given, trains)
    module.skip_rate = 0.0
    x = given["x"].clone().requires_grad_()
    check(module, given, x, module(x, step_of(module, active=False) if trains else None), first=0)


@TRAINS
def test_convolution_module(trains):
    given = case("conv_module")
    module = load(ConvModule(12, 7), given, trains)
    x = input_of(given)
    check(module, given, x, module(x, given["padding_mask"], step_of(module, False) if trains else None))


@pytest.mark.parametrize("dropout", [0.0, Schedule((0, 0.0))], ids=["no mask", "mask"])
@TRAINS
def test_feed_forward(trains, dropout):
    given = case("feedforward")
    module = load(FeedForward(10, 18), given, trains)
    module.out_proj.dropout = dropout
    x = input_of(given)
    check(module, given, x, module(x, step_of(module, False) if trains else None))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 3e-6), (torch.float64, 1e-6)])
@TRAINS
def test_attention_weights(trains, dtype, atol):
    given = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in case("attn_weights").items()
    }
    module = load(AttentionWeights(20, 12, num_heads=2, query_dim=6, pos_head_dim=3), given, trains)
    module = module.to(dtype)
    module.load_state_dict(part(given, "param."))
    x = input_of(given)
    # The last offset is there for the shape alone.
    positions = torch.cat([given["pos_emb"], torch.full((1, 12), 7.0, dtype=dtype)])
    step = step_of(module, False) if trains else None
    weights = module(x, positions, given["padding_mask"], step)
    weights.backward(given["grad_out"].transpose(0, 1))
    assert deviation(weights.detach(), given["y"].transpose(0, 1)) < 1e-5
    assert deviation(x.grad, given["grad_x"].transpose(0, 1)) < 1e-5
    assert deviation(module.in_proj.weight.grad, given["grad.in_proj.weight"]) < 1e-5
    assert deviation(module.linear_pos.weight.grad, given["grad.linear_pos.weight"]) < 1e-5
    # That of the keys is 0 but for rounding.
    torch.testing.assert_close(module.in_proj.bias.grad, given["grad.in_proj.bias"], atol=atol, rtol=1e-5)


def test_self_attention():
    given = case("self_attn")
    module = load(SelfAttention(20, num_heads=2, value_dim=5), given)
    x = input_of(given)
    check(module, given, x, module(x, given["attn_weights"].transpose(0, 1), None))


def test_nonlinear_attention():
    given = case("nonlin_attn")
    module = load(NonlinAttention(20, 15), given)
    x = input_of(given)
    check(module, given, x, module(x, given["attn_weights"][0], None))


def test_constant_attention():
    given = case("const_attention")
    assert deviation(constant_attention(given["attn_in"]), given["attn_out"]) < 1e-5


@pytest.mark.parametrize("kind", ["l", "r"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_functions_against_differences(kind, masked):
    torch.manual_seed(0)
    double = {"dtype": torch.float64, "requires_grad": True}
    x, weight, bias = torch.randn(2, 3, 5, **double), torch.randn(4, 5, **double), torch.randn(4, **double)
    mask = torch.rand(2, 1, 5, dtype=torch.float64) * 2 if masked else None
    assert torch.autograd.gradcheck(SwooshGradient.apply, (x, kind))
    inputs = (x, weight, bias, mask, kind, torch.float64)
    assert torch.autograd.gradcheck(SwooshLinearGradient.apply, inputs)


def test_gradient_of_the_norm_against_differences():
    torch.manual_seed(0)
    double = {"dtype": torch.float64, "requires_grad": True}
    inputs = (torch.randn(2, 3, 5, **double), torch.randn(5, **double), torch.randn((), **double))
    assert torch.autograd.gradcheck(BiasNormGradient.apply, inputs)


@pytest.mark.parametrize("function", ["balancer.balance", "whiten.whiteness"])
def test_failures_in_the_backward_pass_leave_the_gradient_as_it_is(monkeypatch, caplog, function):
    def fail(*args):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(f"audiotag.encoders.zipformer.{function}", fail)
    module = Balancer() if function == "balancer.balance" else Whiten(1.0)
    x, grad = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    module(x, step_of(module, active=True)).backward(grad)
    assert torch.equal(x.grad, grad)
    assert "no memory left" in caplog.text


@pytest.mark.parametrize("module", [Balancer(max_abs=0.1), Whiten(1.0), Whiten(1.0, num_groups=2)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_changed_like_float32(module, dtype):
    torch.manual_seed(0)
    x, grad = (300 * torch.randn(50, 4)).to(dtype), torch.randn(50, 4).to(dtype)
    found = []
    for kind in (dtype, torch.float32):
        leaf = x.to(kind).detach().clone().requires_grad_()
        module(leaf, step_of(module, active=True)).backward(grad.to(kind))
        found.append(leaf.grad)
    assert found[0].dtype == dtype
    assert torch.equal(found[0], found[1].to(dtype))
    assert not torch.equal(found[0], grad)
