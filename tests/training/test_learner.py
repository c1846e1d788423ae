"""One update: precision, accumulation, clipping, and numbers that are not finite."""

from __future__ import annotations

import copy

import pytest
import torch

from audiotag.distributed import World
from audiotag.losses import build_loss
from audiotag.optim.optimizers import build_optimizer
from audiotag.training.divergence import StepInput
from audiotag.training.learner import Learner
from tests.tiny import tiny_labels, tiny_tagger

WORLD = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
ADAMW = {"name": "adamw", "lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
GROUPS = {"head_lr_factor": 1.0, "layer_decay": 1.0, "decay_all": False}


def learner(seed=0, optimizer=ADAMW, **settings):
    tagger = tiny_tagger(seed).train()
    loss = build_loss({"name": "bce", "label_smoothing": 0.0, "class_weights": "none"}, tiny_labels(), None)
    return Learner(tagger, loss, build_optimizer({**optimizer, **GROUPS}, tagger), WORLD, **settings)


def inputs(seed=0, clips=4, bad=False):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(clips, 64, 128, generator=generator)
    if bad:
        features[1, 10, 3] = float("inf")
    targets = (torch.rand(clips, 3, generator=generator) < 0.3).float()
    return StepInput(features, torch.full((clips,), 64), targets, [f"clip{k}" for k in range(clips)], seed)


def weights(made):
    return {name: tensor.clone() for name, tensor in made.tagger.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def learn(made, batch, factor=1.0):
    made.add_gradient(batch, 1, last=True)
    return made.update(factor)


def test_two_halves_make_the_same_update_as_the_whole():
    # Without Adam, which makes much of gradients that are 0 but for rounding.
    whole, halves = learner(optimizer=SGD), learner(optimizer=SGD)
    batch = inputs()
    learn(whole, batch)
    for part in (slice(0, 2), slice(2, 4)):
        half = StepInput(batch.features[part], batch.lengths[part], batch.targets[part], batch.ids[part], 0)
        halves.add_gradient(half, 2, last=part.stop == 4)
    halves.update(1.0)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(halves)[name], tensor, atol=1e-6, rtol=1e-5)


def test_the_rate_is_the_schedules_and_gradients_are_clipped_and_cleared():
    made = learner(clip_norm=1e-3)
    before = weights(made)
    outcome = learn(made, inputs(), factor=0.0)
    assert same(weights(made), before)
    assert outcome.norm > 1e-3
    assert all(parameter.grad is None for parameter in made.tagger.parameters())
    learn(made, inputs(), factor=0.5)
    assert [group["lr"] for group in made.optimizer.param_groups] == [0.005] * len(
        made.optimizer.param_groups
    )
    assert not same(weights(made), before)


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_bad_update_leaves_the_weights_and_is_told_at_once(amp):
    made = learner(amp=amp)
    learn(made, inputs(1))
    before, state = weights(made), made.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    outcome = learn(made, inputs(2, bad=True))
    assert outcome.bad
    assert not outcome.skipped
    assert same(weights(made), before)
    assert torch.equal(made.optimizer.state_dict()["state"][0]["exp_avg"], state)


def test_told_late_the_weights_are_still_those_before_the_bad_update():
    # What happens on a GPU, which is not waited for.
    prompt, late = learner(lagged=False), learner(lagged=True)
    for made in (prompt, late):
        learn(made, inputs(1))
        learn(made, inputs(2))
    assert same(weights(prompt), weights(late))
    before = weights(late)
    assert not learn(late, inputs(3, bad=True)).bad
    assert same(weights(late), before)
    outcome = learn(late, inputs(4))
    assert outcome.bad
    assert same(weights(late), before)


def test_what_was_not_told_yet_can_be_asked_for():
    made = learner(lagged=True)
    learn(made, inputs(1, bad=True))
    assert made.flags.settle() == (False, True)
    assert made.flags.settle() == (False, False)


def test_a_wish_to_stop_comes_back():
    made = learner()
    made.add_gradient(inputs(), 1, last=True)
    assert made.update(1.0, stop=True).stop
    late = learner(lagged=True)
    late.add_gradient(inputs(), 1, last=True)
    assert not late.update(1.0, stop=True).stop
    late.add_gradient(inputs(), 1, last=True)
    assert late.update(1.0).stop


def test_an_overflow_of_fp16_is_skipped_and_the_scale_lowered():
    made = learner(amp="fp16")
    made.scaler._init_scale = 2.0**40  # any gradient times this is beyond fp16
    before = weights(made)
    outcome = learn(made, inputs())
    assert outcome.skipped
    assert not outcome.bad
    assert same(weights(made), before)
    assert made.scaler.get_scale() == 2.0**39


def test_a_loss_that_is_not_finite_is_bad_also_in_fp16():
    made = learner(amp="fp16")
    before = weights(made)
    outcome = learn(made, inputs(bad=True))
    assert outcome.bad
    assert not outcome.skipped
    assert same(weights(made), before)


def test_state_goes_on_exactly_with_settings_of_the_configuration():
    one = learner()
    for seed in range(3):
        learn(one, inputs(seed), factor=0.1)
    other = learner()
    other.tagger.load_state_dict(one.tagger.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    # A checkpoint that is written before the next update has the rate of the last one, as without a break.
    assert {group["lr"] for group in other.optimizer.param_groups} == {0.01 * 0.1}
    for made in (one, other):
        learn(made, inputs(9))
    assert same(weights(one), weights(other))


def test_dropout_follows_the_seed_of_the_batch():
    losses = []
    for seed in (1, 2, 1):
        made = learner()
        for module in made.tagger.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        batch = inputs(0)
        losses.append(
            made.add_gradient(
                StepInput(batch.features, batch.lengths, batch.targets, batch.ids, seed), 1, last=True
            )
        )
    assert losses[0] == losses[2] != losses[1]
