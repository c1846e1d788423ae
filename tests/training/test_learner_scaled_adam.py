"""Updates with ScaledAdam and summed losses, as the Zipformer's recipe has them."""

from __future__ import annotations

import copy

import pytest
import torch

from audiotag.losses import build_loss
from audiotag.optim.optimizers import build_optimizer
from audiotag.optim.scaled_adam import ScaledAdam
from audiotag.training.learner import Learner
from tests.optim.sections import optimizer_section
from tests.tiny import tiny_labels, tiny_tagger
from tests.training.test_learner import WORLD, inputs, learn, same, weights
from tests.training.test_learner import learner as usual_learner


def learner(reduction="sum", **settings):
    tagger = tiny_tagger(0).train()
    loss = build_loss({"name": "bce", "class_weights": "none", "reduction": reduction}, tiny_labels())
    optimizer = build_optimizer(optimizer_section(name="scaled_adam"), tagger)
    return Learner(tagger, loss, optimizer, WORLD, **settings)


def test_steps_do_not_depend_on_the_scale_of_the_loss_but_log_lines_do_not_either():
    total, mean = learner("sum"), learner("mean")
    losses = [made.add_gradient(inputs(), 1, last=True) for made in (total, mean)]
    torch.testing.assert_close(*losses)
    norms = [made.update(1.0).norm for made in (total, mean)]
    torch.testing.assert_close(norms[0], 12 * norms[1])  # four clips, three classes
    before = tiny_tagger(0).state_dict()
    # Together, since single gradients that are 0 but for rounding go either way.
    moved = [
        torch.cat([(tensor - before[name]).flatten() for name, tensor in weights(made).items()])
        for made in (total, mean)
    ]
    assert (moved[0] - moved[1]).norm() < 0.01 * moved[0].norm()


@pytest.mark.parametrize("bad_at", [0, 3, 10])
def test_told_late_all_is_as_before_the_bad_update(bad_at):
    prompt, late = learner(lagged=False), learner(lagged=True)
    for number in range(bad_at):
        for made in (prompt, late):
            assert not learn(made, inputs(number)).bad
    assert same(weights(prompt), weights(late))
    before, state = weights(late), copy.deepcopy(late.optimizer.state_dict())
    assert not learn(late, inputs(99, bad=True)).bad
    assert learn(prompt, inputs(99, bad=True)).bad
    assert learn(late, inputs(100)).bad
    for made in (prompt, late):
        assert same(weights(made), before)
    if bad_at:
        assert_same(late.optimizer.state_dict(), state)
        assert_same(prompt.optimizer.state_dict(), state)


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


def test_an_overflow_of_fp16_costs_an_update_and_nothing_else():
    made = learner(amp="fp16", grad_scaler={"initial_scale": 1.0, "growth_interval": 2000})
    assert made.scaler.get_scale() == 1.0
    for number in range(5):
        assert not learn(made, inputs(number)).skipped
    before, state = weights(made), copy.deepcopy(made.optimizer.state_dict())
    made.scaler.update(2.0**40)
    assert learn(made, inputs(9)).skipped
    assert same(weights(made), before)
    assert_same(made.optimizer.state_dict(), state)
    assert made.scaler.get_scale() == 2.0**39
    made.scaler.update(1.0)
    assert not learn(made, inputs(10)).skipped
    assert made.optimizer.state_dict()["state"][0]["step"] == 6


def test_the_state_goes_on_and_the_settings_are_the_configurations():
    one = learner(amp="fp16", grad_scaler={"initial_scale": 2.0, "growth_interval": 2})
    for seed in range(3):
        learn(one, inputs(seed), factor=0.1)
    other = learner(amp="fp16", grad_scaler={"initial_scale": 2.0, "growth_interval": 7})
    other.tagger.load_state_dict(one.tagger.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert other.scaler.get_scale() == one.scaler.get_scale() == 4.0
    assert other.scaler.get_growth_interval() == 7
    for made in (one, other):
        learn(made, inputs(9))
    assert same(weights(one), weights(other))


def test_it_can_be_held_on_the_device_where_others_of_one_kernel_can():
    assert isinstance(learner().optimizer, ScaledAdam)
    assert learner().optimizer._step_supports_amp_scaling
    assert usual_learner().optimizer._step_supports_amp_scaling
