"""ScaledAdam's state in icefall's layout: made by hand, read, written, and gone on with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from audiotag.errors import CheckpointError
from audiotag.optim.icefall_state import icefall_state, read_icefall_state
from audiotag.optim.scaled_adam import ScaledAdam
from tests.optim.vectors import fresh, run_steps


def small_model():
    """Two matrices of a shape with a vector between them, and a scalar: in icefall's order."""
    torch.manual_seed(0)
    sizes = {"one": (2, 3), "bias": (2,), "two": (2, 3), "scale": ()}
    return {name: nn.Parameter(torch.randn(size)) for name, size in sizes.items()}


def handmade(count=7):
    """The state of that model as icefall would store it: each stack with its first parameter."""
    return {
        0: {
            "step": count,
            "exp_avg_sq": torch.arange(12.0).view(2, 2, 3),
            "delta": torch.arange(12.0).view(2, 2, 3) + 100,
            "param_rms": torch.tensor([0.5, 0.7]).view(2, 1, 1),
            "scale_grads": torch.arange(8.0).view(4, 2, 1, 1),
            "scale_exp_avg_sq": torch.tensor([3.0, 4.0]).view(2, 1, 1),
        },
        1: {
            "step": count,
            "exp_avg_sq": torch.ones(1, 2),
            "delta": torch.full((1, 2), 2.0),
            "param_rms": torch.tensor([[0.9]]),
            "scale_grads": torch.arange(4.0).view(4, 1, 1),
            "scale_exp_avg_sq": torch.tensor([[5.0]]),
        },
        3: {
            "step": count,
            "exp_avg_sq": torch.tensor([6.0]),
            "delta": torch.tensor([7.0]),
            "model_norms": torch.arange(100.0),
            "model_norm_threshold": 12.5,
            "num_clipped": 3,
        },
    }


def test_a_handmade_state_is_read_and_written():
    model = small_model()
    # The order of this side is another one.
    optimizer = ScaledAdam([model[name] for name in ("scale", "two", "one", "bias")])
    read_icefall_state(optimizer, {"state": handmade()}, list(model.values()), "epoch-3.pt")
    two = optimizer.state[model["two"]]
    assert two["step"] == 7
    assert two["exp_avg_sq"].equal(torch.arange(6.0, 12.0).view(2, 3))
    assert two["param_rms"].equal(torch.tensor(0.7))
    assert two["scale_grads"].tolist() == [1.0, 3.0, 5.0, 7.0]
    assert set(optimizer.state[model["scale"]]) == {"step", "exp_avg_sq", "delta"}
    clipping = optimizer.clippings[0]
    assert (clipping.step, float(clipping.threshold), float(clipping.clipped)) == (7, 12.5, 3.0)
    written = icefall_state(optimizer, list(model.values()))
    assert written["param_groups"][0]["params"] == [0, 1, 2, 3]
    expected = handmade()
    assert written["state"].keys() == expected.keys()
    for number, entry in expected.items():
        assert written["state"][number].keys() == entry.keys()
        for name, value in entry.items():
            found = written["state"][number][name]
            assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value, name


@pytest.mark.parametrize("run", ["clip2", "noclip"])
def test_what_is_read_goes_on_as_the_original(run):
    straight, first, second = fresh(run), fresh(run), fresh(run)
    run_steps(*straight, range(30))
    run_steps(*first, range(14))
    for name, parameter in second[0].items():
        parameter.data.copy_(first[0][name].data)
    order = list(first[0])[::-1]
    state = icefall_state(first[1], [first[0][name] for name in order])
    read_icefall_state(second[1], state, [second[0][name] for name in order], "epoch-3.pt")
    run_steps(*second, range(14, 30))
    for name, parameter in straight[0].items():
        assert torch.equal(parameter, second[0][name]), name


def test_a_state_of_another_model_is_refused():
    model = small_model()
    parameters = list(model.values())
    state = handmade()
    state[0]["delta"] = torch.zeros(3, 2, 3)
    with pytest.raises(CheckpointError, match=r"epoch-3\.pt: the optimiser's delta of the 2 .*\(3, 2, 3\)"):
        read_icefall_state(ScaledAdam(parameters), {"state": state}, parameters, "epoch-3.pt")
    state = handmade()
    del state[1]
    with pytest.raises(CheckpointError, match=r"no state for shape \(2,\)"):
        read_icefall_state(ScaledAdam(parameters), {"state": state}, parameters, "epoch-3.pt")
    two_groups = ScaledAdam([{"params": parameters[:2]}, {"params": parameters[2:]}])
    with pytest.raises(CheckpointError, match="one group"):
        read_icefall_state(two_groups, {"state": handmade()}, parameters, "epoch-3.pt")


def test_parameters_of_different_age_have_no_place_there():
    parameters, optimizer = fresh()
    parameters["blk.b.weight"].requires_grad_(False)
    run_steps(parameters, optimizer, range(3))
    with pytest.raises(CheckpointError, match=r"shape \(4, 3\).*training\.freeze"):
        icefall_state(optimizer, list(parameters.values()))


def test_before_the_first_update_there_is_nothing_to_read():
    model = small_model()
    optimizer = ScaledAdam(list(model.values()))
    empty = icefall_state(optimizer, list(model.values()))
    assert empty["state"] == {}
    read_icefall_state(optimizer, empty, list(model.values()), "epoch-3.pt")
    assert not any(optimizer.state.values())
