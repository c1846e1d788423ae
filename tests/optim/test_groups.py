"""Parameter groups: who decays, which rate each layer has, and that nobody is lost or twice there."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.optim.groups import parameter_groups
from audiotag.optim.optimizers import build_optimizer
from tests.optim.sections import optimizer_section
from tests.tiny import tiny_tagger

TAGGER = tiny_tagger()
NAMES = {id(parameter): name for name, parameter in TAGGER.named_parameters()}


def by_name(groups):
    """The group of every parameter."""
    return {NAMES[id(parameter)]: group for group in groups for parameter in group["params"]}


def is_plain(name):
    return name.endswith(".bias") or "norm" in name or "token" in name or "pos_embed" in name


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_norms_biases_positions_and_tokens_do_not_decay(kind):
    section = optimizer_section(name=kind, weight_decay=0.3)
    groups = build_optimizer(section, TAGGER).param_groups
    assert [(group["name"], group["weight_decay"]) for group in groups] == [
        ("all/decay", 0.3),
        ("all/no_decay", 0.0),
    ]
    for name, group in by_name(groups).items():
        assert group["weight_decay"] == (0.0 if is_plain(name) else 0.3), name


def test_they_decay_when_asked_for():
    section = optimizer_section(name="adamw", weight_decay=0.3, decay_all=True)
    (group,) = build_optimizer(section, TAGGER).param_groups
    assert (group["name"], group["weight_decay"]) == ("all", 0.3)
    assert [NAMES[id(parameter)] for parameter in group["params"]] == list(NAMES.values())


def test_adam_decays_all_unless_told_otherwise():
    (group,) = build_optimizer(optimizer_section(name="adam", weight_decay=0.3), TAGGER).param_groups
    assert (group["name"], group["weight_decay"]) == ("all", 0.3)
    section = optimizer_section(name="adam", weight_decay=0.3, decay_all=False)
    for name, group in by_name(build_optimizer(section, TAGGER).param_groups).items():
        assert group["weight_decay"] == (0.0 if is_plain(name) else 0.3), name


def test_the_head_has_a_rate_of_its_own():
    groups = parameter_groups(TAGGER, lr=0.1, weight_decay=0.3, head_lr_factor=10.0)
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("encoder/decay", 0.1),
        ("encoder/no_decay", 0.1),
        ("head/decay", 1.0),
        ("head/no_decay", 1.0),
    ]
    for name, group in by_name(groups).items():
        assert group["name"].startswith("head/") == name.startswith(("head.", "head_norm.")), name


def test_each_layer_has_the_rate_of_the_next_times_the_decay():
    groups = parameter_groups(TAGGER, lr=1.0, weight_decay=0.3, layer_decay=0.5, decay_all=True)
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("encoder.0", 0.25),
        ("encoder.1", 0.5),
        ("encoder.2", 1.0),
        ("head", 1.0),
    ]
    layers = {
        "encoder.cls_token": 0,
        "encoder.dist_token": 0,
        "encoder.pos_embed": 0,
        "encoder.patch_embed.proj.weight": 0,
        "encoder.patch_embed.proj.bias": 0,
        "encoder.blocks.0.norm1.weight": 1,
        "encoder.blocks.0.attn.qkv.bias": 1,
        "encoder.blocks.1.mlp.fc2.weight": 2,
        "encoder.norm.weight": 2,
    }
    groups_by_name = by_name(groups)
    for name, layer in layers.items():
        assert groups_by_name[name]["name"] == f"encoder.{layer}", name


def test_the_decay_over_layers_is_that_of_beats_gradients():
    # The layers of a stack of n have rho^(n-1-l), and all that is before them rho^n.
    encoder = tiny_tagger().encoder
    depth, rho = len(encoder.blocks), 0.3
    groups = parameter_groups(TAGGER, lr=1.0, weight_decay=0.0, layer_decay=rho, decay_all=True)
    expected = [rho**depth, *(rho ** (depth - 1 - layer) for layer in range(depth)), 1.0]
    assert [group["lr"] for group in groups] == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(
    lr=st.floats(1e-6, 1.0),
    weight_decay=st.sampled_from([0.0, 0.1]),
    head_lr_factor=st.sampled_from([1.0, 0.1, 5.0]),
    layer_decay=st.sampled_from([1.0, 0.9, 0.3]),
    decay_all=st.booleans(),
)
def test_every_parameter_is_in_one_group_and_groups_have_names_of_their_own(
    lr, weight_decay, head_lr_factor, layer_decay, decay_all
):
    groups = parameter_groups(
        TAGGER,
        lr=lr,
        weight_decay=weight_decay,
        head_lr_factor=head_lr_factor,
        layer_decay=layer_decay,
        decay_all=decay_all,
    )
    members = [NAMES[id(parameter)] for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(NAMES.values())
    assert len({group["name"] for group in groups}) == len(groups)
    assert all(group["params"] for group in groups)
    for name, group in by_name(groups).items():
        layer = (
            TAGGER.encoder.layer_of(name.removeprefix("encoder.")) if name.startswith("encoder.") else None
        )
        factor = head_lr_factor if layer is None else layer_decay ** (TAGGER.encoder.num_layers - 1 - layer)
        assert group["lr"] == pytest.approx(lr * factor), name
        assert group["weight_decay"] == (weight_decay if decay_all or not is_plain(name) else 0.0), name


def test_frozen_parameters_are_in_their_groups():
    tagger = tiny_tagger()
    names = [group["name"] for group in parameter_groups(tagger, lr=1.0, weight_decay=0.1, layer_decay=0.5)]
    tagger.encoder.requires_grad_(False)
    groups = parameter_groups(tagger, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    assert [group["name"] for group in groups] == names
    assert sum(len(group["params"]) for group in groups) == len(list(tagger.parameters()))
