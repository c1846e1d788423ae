"""Parameter groups: which parameters decay, and the learning rate that each part of the model has.

A group is named after its part and its decay: `all/decay`, `encoder.3/no_decay`, `head/decay`; with
`decay_all` after its part alone. Groups follow the model from the encoder's stem to the head.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

# Parameters with these words in their names are learned positions, tokens and factors: no decay, whatever
# their shape. The last three are BEATs'.
NO_DECAY_WORDS = ("pos_embed", "token", "relative_attention_bias", "weight_g", "grep_a")


def parameter_groups(
    tagger: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    head_lr_factor: float = 1.0,
    layer_decay: float = 1.0,
    decay_all: bool = False,
) -> list[dict[str, Any]]:
    """All parameters, those that are frozen at present too, in groups with `name`, `lr` and `weight_decay`.

    Args:
        tagger: the model; what its `encoder` is not made of counts as head.
        lr: base rate of the encoder's last layer.
        weight_decay: of matrices and kernels.
        head_lr_factor: factor on the rate of the head.
        layer_decay: factor on the rate from each layer of the encoder to the one before it.
        decay_all: whether norms, biases, positions and tokens decay too.
    """
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in tagger.named_parameters():
        position, part, factor = locate(tagger, name, head_lr_factor, layer_decay)
        decayed = decay_all or decays(name, parameter)
        group = {
            "name": part if decay_all else f"{part}/{'decay' if decayed else 'no_decay'}",
            "params": [],
            "lr": lr * factor,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        groups.setdefault((position, not decayed), group)["params"].append(parameter)
    return [group for _, group in sorted(groups.items(), key=lambda item: item[0])]


def locate(
    tagger: nn.Module, name: str, head_lr_factor: float, layer_decay: float
) -> tuple[float, str, float]:
    """Where a parameter lies: a number that orders the parts, the part's name, the factor on its rate."""
    if head_lr_factor == layer_decay == 1.0:
        return 0, "all", 1.0
    body, _, inner = name.partition(".")
    if body != "encoder":
        return math.inf, "head", head_lr_factor
    if layer_decay == 1.0:
        return 0, "encoder", 1.0
    layer = tagger.encoder.layer_of(inner)
    return layer, f"encoder.{layer}", layer_decay ** (tagger.encoder.num_layers - 1 - layer)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix or a kernel: no norm, bias, position, token or factor."""
    return parameter.ndim >= 2 and not any(word in name for word in NO_DECAY_WORDS)
