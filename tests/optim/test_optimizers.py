"""Optimisers: that the settings arrive, and that a saved one goes on exactly where it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from audiotag.optim.freezing import Freezer
from audiotag.optim.optimizers import build_optimizer
from audiotag.optim.scaled_adam import ScaledAdam
from tests.optim.sections import optimizer_section
from tests.tiny import tiny_tagger

SECTIONS = {
    "adamw": optimizer_section(name="adamw", lr=1e-2, weight_decay=0.1, layer_decay=0.5, head_lr_factor=3),
    "adam": optimizer_section(name="adam", lr=1e-2, weight_decay=1e-3, layer_decay=0.5),
    "sgd": optimizer_section(name="sgd", lr=1e-2, weight_decay=0.1, head_lr_factor=3, nesterov=True),
    "scaled_adam": optimizer_section(name="scaled_adam", layer_decay=0.5, clipping_update_period=2),
}


@pytest.mark.parametrize(
    ("section", "kind", "expected"),
    [
        (
            {"name": "adamw", "betas": [0.8, 0.9], "eps": 1e-7},
            torch.optim.AdamW,
            {"betas": (0.8, 0.9), "eps": 1e-7},
        ),
        (
            {"name": "adam", "betas": [0.8, 0.9], "eps": 1e-7},
            torch.optim.Adam,
            {"betas": (0.8, 0.9), "eps": 1e-7},
        ),
        (
            {"name": "sgd", "momentum": 0.7, "nesterov": True},
            torch.optim.SGD,
            {"momentum": 0.7, "nesterov": True},
        ),
    ],
    ids=["adamw", "adam", "sgd"],
)
def test_settings_arrive_in_every_group(section, kind, expected):
    optimizer = build_optimizer(optimizer_section(**section, lr=0.3, layer_decay=0.5), tiny_tagger())
    assert type(optimizer) is kind
    assert len(optimizer.param_groups) > 2
    for group in optimizer.param_groups:
        assert {key: group[key] for key in expected} == expected
        assert bool(group["fused"]) == (kind is not torch.optim.SGD)


def test_settings_of_scaled_adam_arrive_in_groups_by_rate():
    section = optimizer_section(name="scaled_adam", betas=[0.8, 0.9], layer_decay=0.5, scalar_max=4.0)
    tagger = tiny_tagger()
    optimizer = build_optimizer(section, tagger)
    assert type(optimizer) is ScaledAdam
    assert [group["name"] for group in optimizer.param_groups][-1] == "head"
    for group in optimizer.param_groups:
        assert (group["betas"], group["scalar_max"], group["clipping_scale"]) == ((0.8, 0.9), 4.0, 2.0)
    plain = build_optimizer(optimizer_section(name="scaled_adam"), tagger)
    assert [group["name"] for group in plain.param_groups] == ["all"]
    assert plain.names[tagger.head.bias] == "head.bias"


def test_a_range_of_sizes_that_is_empty_is_refused():
    with pytest.raises(ValueError, match="param_min_rms 4 is not below param_max_rms 3"):
        optimizer_section(name="scaled_adam", param_min_rms=4.0)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValueError, match="nesterov needs a momentum above 0"):
        optimizer_section(name="sgd", momentum=0.0, nesterov=True)


def test_adam_adds_its_penalty_to_every_gradient():
    layer = nn.Linear(3, 2)
    section = optimizer_section(name="adam", lr=0.1, weight_decay=0.5)
    optimizer = build_optimizer(section, layer)
    before = {name: value.clone() for name, value in layer.named_parameters()}
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in layer.named_parameters():
        # With no gradient but the penalty, Adam's first step is lr times the sign of the weight.
        assert torch.allclose(parameter, before[name] - 0.1 * before[name].sign(), atol=1e-5), name


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_rate_and_decay_of_a_group_act_on_its_parameters(name):
    layer = nn.Linear(3, 2)
    section = optimizer_section(name=name, lr=0.1, weight_decay=0.5, head_lr_factor=2.0)
    optimizer = build_optimizer(section, layer)
    before = {name: value.clone() for name, value in layer.named_parameters()}
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # Without a gradient, decoupled decay and the penalty of the first step of SGD come to lr x decay.
    assert torch.allclose(layer.weight, before["weight"] * (1 - 0.2 * 0.5))
    assert torch.equal(layer.bias, before["bias"])


def train(tagger, optimizer, freezer, updates):
    """Updates on random features that depend on their number alone, five of them an epoch."""
    base = [group["initial_lr"] for group in optimizer.param_groups]
    for update in updates:
        freezer.apply(1 + update // 5)
        torch.manual_seed(update)
        features, targets = torch.randn(4, 64, 128), torch.randint(2, (4, 3)).float()
        logits = tagger.from_features(features, torch.full((4,), 64))
        nn.functional.binary_cross_entropy_with_logits(logits, targets).backward()
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr / (1 + update)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def new_run(name):
    tagger = tiny_tagger()
    optimizer = build_optimizer(SECTIONS[name], tagger)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    freezer = Freezer(
        tagger,
        [
            {"modules": ["encoder.blocks.0", "encoder.norm"], "epochs": 1},
            {"modules": ["encoder.pos_embed"], "epochs": None},
        ],
    )
    return tagger, optimizer, freezer


def assert_same_state(left, right):
    """The same values, bit by bit, in two trees of dictionaries and lists."""
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same_state(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same_state(one, other)
    else:
        assert left == right


@pytest.mark.parametrize("saved_after", [3, 5, 8])  # while parts are frozen, between, and after
@pytest.mark.parametrize("name", SECTIONS)
def test_a_saved_optimiser_goes_on_exactly(name, saved_after, tmp_path):
    straight = new_run(name)
    train(*straight, range(10))
    interrupted = new_run(name)
    train(*interrupted, range(saved_after))
    torch.save([part.state_dict() for part in interrupted[:2]], tmp_path / "state.pt")

    resumed = new_run(name)
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed[0].load_state_dict(states[0])
    resumed[1].load_state_dict(copy.deepcopy(states[1]))
    assert_same_state(resumed[1].state_dict(), states[1])
    train(*resumed, range(saved_after, 10))
    for one, other in zip(straight[:2], resumed[:2], strict=True):
        assert_same_state(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", SECTIONS)
def test_frozen_parameters_neither_change_nor_decay_nor_have_a_state(name):
    tagger, optimizer, freezer = new_run(name)
    before = {name: value.clone() for name, value in tagger.state_dict().items()}
    train(tagger, optimizer, freezer, range(5))
    with_state = {id(parameter) for parameter in optimizer.state}
    for full_name, parameter in tagger.named_parameters():
        frozen = full_name.startswith(("encoder.blocks.0.", "encoder.norm.")) or "pos_embed" in full_name
        assert torch.equal(parameter, before[full_name]) == frozen, full_name
        assert (id(parameter) in with_state) != frozen, full_name
    train(tagger, optimizer, freezer, range(5, 10))
    changed = {
        full for full, parameter in tagger.named_parameters() if not torch.equal(parameter, before[full])
    }
    assert changed == {full for full, _ in tagger.named_parameters()} - {"encoder.pos_embed"}


def test_an_unfrozen_parameter_starts_its_moments_anew():
    tagger, optimizer, freezer = new_run("adamw")
    train(tagger, optimizer, freezer, range(7))
    state = {name: optimizer.state.get(parameter) for name, parameter in tagger.named_parameters()}
    assert state["encoder.blocks.0.attn.qkv.weight"]["step"] == 2
    assert state["encoder.blocks.1.attn.qkv.weight"]["step"] == 7
