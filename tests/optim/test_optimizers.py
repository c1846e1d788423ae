"""Optimisers: which parameters decay, and that the settings arrive."""

from __future__ import annotations

import torch

from audiotag.optim.optimizers import build_optimizer
from audiotag.tagger import build_tagger
from tests.tiny import tiny_labels, tiny_sections


def test_adamw_decays_matrices_only():
    tagger = build_tagger(*tiny_sections(), tiny_labels())
    optimizer = build_optimizer(
        {"name": "adamw", "lr": 0.1, "betas": [0.8, 0.9], "eps": 1e-7, "weight_decay": 0.3}, tagger
    )
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in tagger.named_parameters():
        plain = name.endswith(".bias") or "norm" in name or "token" in name or "pos_embed" in name
        assert decay[id(parameter)] == (0.0 if plain else 0.3), name
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.1, (0.8, 0.9), 1e-7)


def test_adam_adds_its_penalty_to_every_gradient():
    layer = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(
        {"name": "adam", "lr": 0.1, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.5}, layer
    )
    before = {name: value.clone() for name, value in layer.named_parameters()}
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in layer.named_parameters():
        # With no gradient but the penalty, Adam's first step is lr times the sign of the weight.
        assert torch.allclose(parameter, before[name] - 0.1 * before[name].sign(), atol=1e-5), name
