"""ScaledAdam against the published trajectories, and what training asks of it besides."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from audiotag.errors import TrainingError
from audiotag.optim.medianclipping import MedianClipping
from audiotag.optim.scaled_adam import ScaledAdam
from tests.optim.vectors import facts, fresh, run_steps, set_gradients, vectors

RUNS = ("clip2", "noclip", "clip2_period12")


def deviation(found, expected):
    """Largest difference over the largest absolute value."""
    scale = expected.abs().max().clamp(min=1e-30)
    return float((found.reshape(expected.shape) - expected).abs().max() / scale)


def spy_on_factors(monkeypatch):
    """The factor and the threshold of every step from here on."""
    seen = []
    original = MedianClipping.factor

    def factor(self, *args):
        value = original(self, *args)
        seen.append((1.0 if value is None else float(value), self.threshold))
        return value

    monkeypatch.setattr(MedianClipping, "factor", factor)
    return seen


@pytest.mark.parametrize("run", RUNS)
def test_the_published_trajectories(run, monkeypatch):
    parameters, optimizer = fresh(run)
    seen = spy_on_factors(monkeypatch)
    worst = 0.0
    for step in range(facts()["steps"]):
        run_steps(parameters, optimizer, range(step, step + 1))
        if step + 1 in facts()["snapshots"]:
            for name, parameter in parameters.items():
                worst = max(worst, deviation(parameter.detach(), vectors()[f"{run}.step{step + 1}.{name}"]))
    assert worst < 1e-5
    print(f"{run}: parameters deviate by up to {worst:.1e} of the largest")
    optimizer.state_dict()
    for name, parameter in parameters.items():
        for part in ("exp_avg_sq", "delta", "param_rms", "scale_exp_avg_sq"):
            expected = vectors().get(f"{run}.state45.{part}.{name}")
            assert (expected is None) == (part not in optimizer.state[parameter]), (part, name)
            if expected is not None:
                assert deviation(optimizer.state[parameter][part], expected) < 1e-5, (part, name)
    if run == "noclip":
        assert not seen
        return
    assert deviation(optimizer.clippings[0].norms, vectors()[f"{run}.state45.model_norms"]) < 1e-5
    factors = torch.tensor([factor for factor, _ in seen])
    torch.testing.assert_close(factors, vectors()[f"{run}.clip_factor"], atol=1e-6, rtol=1e-6)
    thresholds = torch.tensor([float("nan") if one is None else float(one) for _, one in seen])
    expected = vectors()[f"{run}.clip_threshold"]
    torch.testing.assert_close(thresholds, expected, atol=1e-6, rtol=1e-6, equal_nan=True)


def test_stacks_are_in_the_published_order():
    parameters, optimizer = fresh()
    run_steps(parameters, optimizer, range(1))
    found = [[optimizer.names[p] for p in stack.parameters] for stack in optimizer._stacks[0]]
    assert found == facts()["runs"]["clip2"]["stacking_order"]


def same(one, other):
    """Nested values are equal, bit by bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def values(parameters):
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@pytest.mark.parametrize("saved_after", [1, 3, 11, 26])
def test_a_saved_state_goes_on_with_the_same_bits(saved_after, tmp_path):
    straight = fresh("clip2_period12")
    run_steps(*straight, range(40))
    first = fresh("clip2_period12")
    run_steps(*first, range(saved_after))
    torch.save((values(first[0]), first[1].state_dict()), tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    second = fresh("clip2_period12")
    for name, parameter in second[0].items():
        parameter.data.copy_(weights[name])
    second[1].load_state_dict(state)
    assert same(second[1].state_dict(), state)
    run_steps(*second, range(saved_after, 40))
    assert same(values(second[0]), values(straight[0]))
    assert same(second[1].state_dict(), straight[1].state_dict())


def test_settings_of_a_resumed_run_are_its_own():
    first = fresh("clip2_period12")
    run_steps(*first, range(20))
    state = copy.deepcopy(first[1].state_dict())
    for changed in (
        {"clipping_scale": None},
        {"clipping_scale": 10.0},
        {"clipping_update_period": 5},
        {"size_update_period": 8},
        {"betas": (0.8, 0.9)},
    ):
        parameters = {name: nn.Parameter(value) for name, value in values(first[0]).items()}
        settings = {name: first[1].param_groups[0][name] for name in first[1].defaults} | changed
        second = ScaledAdam(list(parameters.values()), **settings)
        second.load_state_dict(copy.deepcopy(state))
        assert {name: second.param_groups[0][name] for name in settings} == settings
        assert (second.clippings[0] is None) == (settings["clipping_scale"] is None)
        run_steps(parameters, second, range(20, 30))
        assert all(parameter.isfinite().all() for parameter in parameters.values())


def test_parameters_of_a_stack_are_updated_as_if_each_were_alone():
    together, optimizer = fresh("noclip")
    run_steps(together, optimizer, range(20))
    for name in ("blk.b.weight", "blk.a.bias", "norm2.log_scale"):
        parameters, _ = fresh("noclip")
        alone = {name: parameters[name]}
        run_steps(alone, ScaledAdam(list(alone.values()), clipping_scale=None), range(20))
        torch.testing.assert_close(alone[name], together[name], atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("held", [0, 2, 3, 10, 11, 19])
def test_an_update_that_is_not_made_leaves_no_trace(held):
    straight, late = fresh(), fresh()
    run_steps(*straight, range(30))
    for step in range(30):
        if step == held:
            before = values(late[0])
            state = copy.deepcopy(late[1].state_dict()) if step else None
            set_gradients(late[0], step)
            late[0]["conv.weight"].grad[0] = float("nan")
            late[0]["big.weight"].grad[0] = float("inf")
            late[1].found_inf = torch.tensor(1.0)
            late[1].step()
            assert same(values(late[0]), before)
            if state is not None:
                assert same(late[1].state_dict(), state)
        late[1].found_inf = torch.tensor(0.0)
        run_steps(*late, range(step, step + 1))
        del late[1].found_inf
    assert same(values(late[0]), values(straight[0]))
    assert same(late[1].state_dict(), straight[1].state_dict())


def test_infinite_gradients_are_taken_for_none_once_there_is_a_threshold():
    parameters, optimizer = fresh()
    run_steps(parameters, optimizer, range(12))
    momentum = optimizer.state[parameters["conv.weight"]]["delta"].clone()
    set_gradients(parameters, 12)
    parameters["conv.weight"].grad[0] = float("inf")
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in parameters.values())
    for state in optimizer.state_dict()["state"].values():
        assert all(torch.as_tensor(value).isfinite().all() for value in state.values())
    after = optimizer.state[parameters["conv.weight"]]["delta"]
    assert 0 < after.norm() < momentum.norm()


def test_a_median_that_is_not_finite_ends_training():
    parameters, optimizer = fresh("clip2_period12")
    with pytest.raises(TrainingError, match=r"not finite in most of the last 10 updates.*optimizer\.lr"):
        for step in range(12):
            set_gradients(parameters, step)
            if step in range(2, 10):
                parameters["conv.weight"].grad.fill_(float("nan"))
            optimizer.step()


def test_what_was_frozen_joins_with_a_state_of_its_own():
    parameters, optimizer = fresh()
    late = ("blk.b.weight", "gate.scale")
    for name in late:
        parameters[name].requires_grad_(False)
    before = values(parameters)
    run_steps(parameters, optimizer, range(7))
    assert all(torch.equal(parameters[name], before[name]) for name in late)
    assert not any(parameters[name] in optimizer.state for name in late)
    for name in late:
        parameters[name].requires_grad_(True)
    run_steps(parameters, optimizer, range(7, 11))
    optimizer.state_dict()
    steps = {name: optimizer.state[parameter]["step"] for name, parameter in parameters.items()}
    assert {steps.pop(name) for name in late} == {4}
    assert set(steps.values()) == {11}
    # Alone, with the same gradients from then on, it moves alike: clipping had no say yet.
    alone = {"blk.b.weight": nn.Parameter(before["blk.b.weight"].clone())}
    other = ScaledAdam(list(alone.values()), clipping_scale=None)
    run_steps(alone, other, range(7, 10))
    again, optimizer = fresh()
    again["blk.b.weight"].requires_grad_(False)
    run_steps(again, optimizer, range(7))
    again["blk.b.weight"].requires_grad_(True)
    run_steps(again, optimizer, range(7, 10))
    torch.testing.assert_close(again["blk.b.weight"], alone["blk.b.weight"], atol=1e-7, rtol=1e-6)


def test_freezing_between_a_save_and_its_resumption_costs_no_bit(tmp_path):
    def train(parameters, optimizer, steps):
        for step in steps:
            parameters["blk.b.weight"].requires_grad_(step >= 5)
            parameters["conv.weight"].requires_grad_(not 8 <= step < 14)
            run_steps(parameters, optimizer, range(step, step + 1))

    straight = fresh()
    train(*straight, range(20))
    for saved_after in (5, 6, 10, 15):
        first, second = fresh(), fresh()
        train(*first, range(saved_after))
        torch.save(first[1].state_dict(), tmp_path / "state.pt")
        for name, parameter in second[0].items():
            parameter.data.copy_(first[0][name].data)
        second[1].load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        train(*second, range(saved_after, 20))
        assert same(values(second[0]), values(straight[0])), saved_after
        assert same(second[1].state_dict(), straight[1].state_dict()), saved_after


def test_the_rate_of_a_group_is_its_own_and_each_is_clipped_by_itself():
    parameters, _ = fresh()
    body, head = dict(list(parameters.items())[:4]), dict(list(parameters.items())[4:])
    groups = [
        {"name": "encoder", "params": list(body.values()), "lr": 0.045},
        {"name": "head", "params": list(head.values()), "lr": 0.09},
    ]
    optimizer = ScaledAdam(groups)
    run_steps(parameters, optimizer, range(15))
    for part, lr in ((body, 0.045), (head, 0.09)):
        alone, _ = fresh()
        alone = {name: alone[name] for name in part}
        run_steps(alone, ScaledAdam(list(alone.values()), lr=lr), range(15))
        assert same(values(alone), values(part))
    figures, _ = optimizer.report()
    assert {name.split("/")[0] for name in figures} == {"encoder", "head"}


def test_the_report_tells_thresholds_and_whose_gradient_was_clipped():
    parameters, optimizer = fresh()
    run_steps(parameters, optimizer, range(10))
    assert optimizer.report() == ({}, [])
    run_steps(parameters, optimizer, range(10, 12))
    figures, remarks = optimizer.report()
    assert figures["threshold"] == pytest.approx(4 * figures["norm_median"])
    assert figures["norm_min"] <= figures["norm_25"] <= figures["norm_median"] <= figures["norm_max"]
    assert (figures["smallest_factor"], remarks) == (1.0, [])
    set_gradients(parameters, 12)
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            parameter.grad.mul_(1e4 if name == "norm.bias" else 1e-3)
    optimizer.step()
    figures, remarks = optimizer.report()
    assert 0.0 < figures["smallest_factor"] < 0.5
    assert len(remarks) == 1
    assert "100 % of whose square came from norm.bias" in remarks[0]
    run_steps(parameters, optimizer, range(14, 22))
    figures, remarks = optimizer.report()
    assert remarks == []
    assert figures["percent_clipped"] == pytest.approx(10.0)


def test_a_scaler_that_has_not_unscaled_has_its_scale_taken_out():
    plain, scaled = fresh(), fresh()
    run_steps(*plain, range(3))
    for step in range(3):
        set_gradients(scaled[0], step)
        for parameter in scaled[0].values():
            if parameter.grad is not None:
                parameter.grad.mul_(1024.0)
        scaled[1].grad_scale, scaled[1].found_inf = torch.tensor(1024.0), torch.tensor(0.0)
        scaled[1].step()
    assert same(values(plain[0]), values(scaled[0]))


class Waits(TorchDispatchMode):
    """Counts the operations for which a GPU would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.masked_select.default,
        )
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("told", [False, True])
def test_no_update_waits_for_the_device_but_those_of_a_threshold(told):
    parameters, optimizer = fresh()
    waits = {}
    for step in range(24):
        set_gradients(parameters, step)
        if told:
            optimizer.found_inf = torch.zeros(())
        with Waits() as seen:
            optimizer.step()
        waits[step] = seen.count
    # What the update before was told, which on a GPU has long arrived.
    usual = {step: int(told and step > 0) for step in waits if step not in (10, 20)}
    assert {step: waits[step] for step in usual} == usual


def test_a_scalar_beyond_its_limit_is_brought_back_only_by_an_update_that_is_made():
    scalar = nn.Parameter(torch.tensor(12.0))
    optimizer = ScaledAdam([scalar])
    scalar.grad = torch.tensor(1.0)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert scalar == 12.0
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert scalar == 10.0
