"""The published trajectories of ScaledAdam: parameters, gradients, and what should come of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from audiotag.optim.scaled_adam import ScaledAdam

FOLDER = Path(__file__).parents[1] / "data" / "zipformer"


@cache
def vectors() -> dict[str, torch.Tensor]:
    """All tensors."""
    return load_file(FOLDER / "scaled_adam.safetensors")


@cache
def facts() -> dict[str, Any]:
    """Settings, order of the parameters, runs."""
    return json.loads((FOLDER / "scaled_adam.json").read_text())


def fresh(run: str = "clip2", **settings: Any) -> tuple[dict[str, nn.Parameter], ScaledAdam]:
    """The parameters at the start of a run, by name, and an optimiser over them."""
    known, optimizer = facts(), {}
    parameters = {name: nn.Parameter(vectors()[f"init.{name}"].clone()) for name in known["parameter_order"]}
    for name in ("lr", "eps", "scalar_lr_scale", "param_min_rms", "param_max_rms", "scalar_max"):
        optimizer[name] = known[name]
    optimizer |= {
        "betas": tuple(known["betas"]),
        "size_update_period": known["size_update_period"],
        "clipping_update_period": known["clipping_update_period"],
        **known["runs"][run]["kwargs"],
        **settings,
    }
    names = {parameter: name for name, parameter in parameters.items()}
    return parameters, ScaledAdam(list(parameters.values()), names=names, **optimizer)


def set_gradients(parameters: dict[str, nn.Parameter], step: int) -> None:
    """The gradients of step number `step`, from 0; one parameter never has any."""
    for name, parameter in parameters.items():
        gradients = vectors().get(f"grads.{name}")
        parameter.grad = None if gradients is None else gradients[step].clone()


def run_steps(parameters: dict[str, nn.Parameter], optimizer: ScaledAdam, steps: range) -> None:
    """Some steps of the run."""
    for step in steps:
        set_gradients(parameters, step)
        optimizer.step()
