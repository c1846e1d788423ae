"""Optimisers from a config section, with weight decay only where it belongs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# Parameters with these words in their names are learned positions and tokens: no decay, whatever their shape.
NO_DECAY_WORDS = ("pos_embed", "token")


def build_optimizer(section: dict[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that a config section describes, over the model's trainable parameters."""
    settings = dict(section)
    name = settings.pop("name")
    settings["betas"] = tuple(settings["betas"])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    if name == "adam":
        return torch.optim.Adam(parameters, fused=fused, **settings)
    return torch.optim.AdamW(decay_groups(model, settings.pop("weight_decay")), fused=fused, **settings)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices and kernels with decay; norms, biases, tokens and positions without."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            without = parameter.ndim < 2 or any(word in name for word in NO_DECAY_WORDS)
            (plain if without else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
