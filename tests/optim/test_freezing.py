"""Frozen parts: which parameters, for how long, in which mode, and what DistributedDataParallel does."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from audiotag.errors import ConfigError
from audiotag.optim.freezing import Freezer
from tests.tiny import tiny_tagger


def trained(tagger):
    return {name for name, parameter in tagger.named_parameters() if parameter.requires_grad}


def all_names(tagger):
    return {name for name, _ in tagger.named_parameters()}


def test_without_entries_nothing_is_frozen():
    tagger = tiny_tagger()
    freezer = Freezer(tagger, [])
    assert not freezer.apply(1)
    assert trained(tagger) == all_names(tagger)


def test_parts_are_trained_after_their_epochs():
    tagger = tiny_tagger()
    freezer = Freezer(
        tagger,
        [
            {"modules": ["encoder"], "epochs": 2},
            {"modules": ["encoder.blocks.0", "encoder.pos_embed"], "epochs": 4},
            {"modules": ["encoder.cls_token"], "epochs": None},
        ],
    )
    head = {name for name in all_names(tagger) if name.startswith(("head.", "head_norm."))}
    first = {name for name in all_names(tagger) if name.startswith("encoder.blocks.0.")}
    changes = []
    for epoch in range(1, 7):
        changes.append(freezer.apply(epoch))
        if epoch <= 2:
            assert trained(tagger) == head
        elif epoch <= 4:
            late = first | {"encoder.pos_embed", "encoder.cls_token"}
            assert trained(tagger) == all_names(tagger) - late
        else:
            assert trained(tagger) == all_names(tagger) - {"encoder.cls_token"}
    assert changes == [True, False, True, False, True, False]


def test_the_epoch_alone_decides_so_that_a_resumed_run_needs_no_state():
    sections = [
        {"modules": ["encoder.norm", "encoder.blocks"], "epochs": 1},
        {"modules": ["head_norm"], "epochs": 3},
    ]
    straight, resumed = tiny_tagger(), tiny_tagger()
    freezer = Freezer(straight, sections)
    for epoch in range(1, 3):
        freezer.apply(epoch)
    assert Freezer(resumed, sections).apply(2)
    assert trained(straight) == trained(resumed)


def test_a_name_is_not_the_beginning_of_another():
    tagger = tiny_tagger()
    Freezer(tagger, [{"modules": ["head"], "epochs": None}]).apply(1)
    assert trained(tagger) == all_names(tagger) - {"head.weight", "head.bias"}


def test_frozen_modules_are_in_evaluation_mode_as_long_as_they_are_frozen():
    tagger = tiny_tagger()
    freezer = Freezer(tagger, [{"modules": ["encoder.blocks.0", "encoder.pos_embed"], "epochs": 1}])
    for epoch, expected in ((1, False), (2, True)):
        freezer.apply(epoch)
        tagger.train()
        freezer.set_modes()
        assert all(module.training == expected for module in tagger.encoder.blocks[0].modules())
        assert tagger.encoder.blocks[1].training and tagger.encoder.training and tagger.training


class Sharing(nn.Module):
    """Two layers with one table, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.layers[1].weight = self.layers[0].weight
        self.head = nn.Linear(2, 1)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_shared_parameter_is_frozen_with_each_layer_that_has_it(layer):
    model = Sharing()
    freezer = Freezer(model, [{"modules": [f"layers.{layer}"], "epochs": 1}])
    freezer.apply(1)
    assert not model.layers[0].weight.requires_grad
    assert model.layers[1 - layer].bias.requires_grad
    freezer.apply(2)
    assert model.layers[0].weight.requires_grad


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encodr", "no part of the model with parameters is called 'encodr' (did you mean 'encoder'?)"),
        ("blocks.1", "(did you mean 'encoder.blocks.1'?)"),
        ("encoder.block.1", "(did you mean 'encoder.blocks.1'?)"),
        ("encoder.blocks.2", "(did you mean 'encoder.blocks."),
        ("frontend", "'frontend'"),
        ("zzz", "(there are encoder, head_norm, head, and what lies in them)"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name, message):
    with pytest.raises(ConfigError) as caught:
        Freezer(tiny_tagger(), [{"modules": ["head", name], "epochs": 3}])
    assert "training.freeze" in str(caught.value)
    assert message in str(caught.value)


def test_freezing_all_is_refused():
    sections = [{"modules": ["encoder", "head"], "epochs": 3}, {"modules": ["head_norm"], "epochs": 1}]
    with pytest.raises(ConfigError, match=r"nothing is left to train in epoch 1.*encoder, head, head_norm"):
        Freezer(tiny_tagger(), sections)


def gradients(model, tagger):
    """Gradients by name after one backward pass through `model`, which is the tagger or wraps it."""
    tagger.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    model(torch.randn(2, 64, 128), torch.full((2,), 64)).square().sum().backward()
    return {name: value.grad.clone() for name, value in tagger.named_parameters() if value.grad is not None}


@pytest.fixture
def gloo(tmp_path):
    """A process group of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_distributed_gradients_are_those_of_the_parameters_that_are_trained(gloo):
    tagger, twin = tiny_tagger(), tiny_tagger()
    sections = [{"modules": ["encoder.blocks.0", "encoder.pos_embed"], "epochs": 1}]
    freezer, twin_freezer = Freezer(tagger, sections), Freezer(twin, sections)
    model = None
    for epoch in range(1, 4):
        twin_freezer.apply(epoch)
        if freezer.apply(epoch) or model is None:
            model = DistributedDataParallel(tagger, gradient_as_bucket_view=True, broadcast_buffers=False)
        for _ in range(2):  # a second pass fails where a parameter in a bucket had no gradient in the first
            found = gradients(model, tagger)
        expected = gradients(twin, twin)
        assert found.keys() == expected.keys() == trained(tagger)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
