"""Optimisers from a config section, over parameter groups with rates and decay of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from audiotag.optim.groups import parameter_groups
from audiotag.optim.scaled_adam import ScaledAdam

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
FUSED_ON = ("cpu", "cuda")
GROUP_KEYS = ("lr", "weight_decay", "head_lr_factor", "layer_decay", "decay_all")


def build_optimizer(
    section: dict[str, Any], tagger: nn.Module, loss: nn.Module | None = None
) -> torch.optim.Optimizer:
    """The optimiser that a config section describes, over all parameters of a model on its device, and of its
    loss if that has any.

    Parameters that are frozen have no gradient, and so neither change nor decay nor have a state. The groups'
    `lr` are base rates, which a schedule multiplies.
    """
    settings = dict(section)
    if section["name"] == "scaled_adam":
        return scaled_adam(settings, tagger, loss)
    optimizer_class = OPTIMIZERS[settings.pop("name")]
    groups = parameter_groups(tagger, **{key: settings.pop(key) for key in GROUP_KEYS})
    groups += loss_groups(loss, section["lr"])
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    if section["name"] != "sgd":
        # One kernel for all tensors of a group; that of SGD fails once frozen ones among them are trained.
        settings["fused"] = all(parameter.device.type in FUSED_ON for parameter in tagger.parameters())
    return optimizer_class(groups, **settings)


def scaled_adam(settings: dict[str, Any], tagger: nn.Module, loss: nn.Module | None) -> ScaledAdam:
    """ScaledAdam, which has no weight decay: parameters are in groups by their rates alone."""
    del settings["name"]
    rates = {key: settings.pop(key) for key in GROUP_KEYS if key in settings}
    groups = parameter_groups(tagger, **rates, weight_decay=0.0, decay_all=True)
    groups += loss_groups(loss, rates["lr"])
    for group in groups:
        del group["weight_decay"]
    settings["betas"] = tuple(settings["betas"])
    names = {p: name for module in (tagger, loss) if module for name, p in module.named_parameters()}
    return ScaledAdam(groups, **settings, names=names)


def loss_groups(loss: nn.Module | None, lr: float) -> list[dict[str, Any]]:
    """The group of a loss' parameters, which do not decay; none where it has none."""
    parameters = list(loss.parameters()) if loss is not None else []
    return [{"name": "loss", "params": parameters, "lr": lr, "weight_decay": 0.0}] if parameters else []
