"""The state of ScaledAdam in the layout of icefall's checkpoints, and back.

There the state of all parameters of one dtype and shape lies, stacked, with the first of them, and that of
the clipping with the first parameter of the first stack. Numbers of parameters go by the order of icefall's
model, which the caller knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audiotag.errors import CheckpointError
from audiotag.optim.scaled_adam import ScaledAdam

# Of the state of a stack: where the axis of the parameters is.
AXES = {"exp_avg_sq": 0, "delta": 0, "param_rms": 0, "scale_grads": 1, "scale_exp_avg_sq": 0}
OF_SIZES = ("param_rms", "scale_grads", "scale_exp_avg_sq")


def read_icefall_state(
    optimizer: ScaledAdam, state: dict[str, Any], parameters: Sequence[nn.Parameter], source: object
) -> None:
    """Put the state of an icefall checkpoint into an optimiser.

    Args:
        optimizer: over all the parameters, in one group.
        state: the checkpoint's `optimizer`.
        parameters: in the order of icefall's model.
        source: the file, for messages.
    """
    own = the_group(optimizer, parameters)
    by_parameter: dict[nn.Parameter, dict[str, Any]] = {}
    clipping: dict[str, Any] = {}
    numbers = {parameter: number for number, parameter in enumerate(parameters)}
    for stack in stacks_of(parameters):
        stored = state["state"].get(numbers[stack[0]])
        if stored is None:
            if optimizer_has_run(state):
                raise CheckpointError(
                    f"{source}: the optimiser has no state for shape {tuple(stack[0].shape)} of the model"
                )
            return
        clipping = clipping or stored  # with the first stack
        for number, parameter in enumerate(stack):
            by_parameter[parameter] = unstacked(stored, number, stack, source)
    packed = optimizer.state_dict()
    places = {parameter: place for place, parameter in enumerate(own)}
    packed["state"] = {places[parameter]: entry for parameter, entry in by_parameter.items()}
    optimizer.load_state_dict(packed)
    (own_clipping,) = optimizer.clippings
    if own_clipping is not None and clipping:
        threshold, fresh = clipping.get("model_norm_threshold"), own_clipping.state_dict()
        own_clipping.load_state_dict(
            {
                **fresh,
                "step": int(clipping["step"]),
                "norms": clipping.get("model_norms", fresh["norms"]).flatten(),
                "threshold": None if threshold is None else torch.as_tensor(threshold),
                "clipped": torch.as_tensor(clipping.get("num_clipped", 0)),
            }
        )


def icefall_state(optimizer: ScaledAdam, parameters: Sequence[nn.Parameter]) -> dict[str, Any]:
    """The state of an optimiser as icefall's checkpoints have it; tensors are copies.

    Args:
        optimizer: over all the parameters, in one group, none of which was frozen for a time.
        parameters: in the order of icefall's model.
    """
    the_group(optimizer, parameters)
    optimizer.state_dict()  # notes the state of each parameter
    numbers = {parameter: number for number, parameter in enumerate(parameters)}
    stored: dict[int, dict[str, Any]] = {}
    stacks = stacks_of(parameters)
    for stack in stacks:
        states = [optimizer.state[parameter] for parameter in stack]
        steps = {entry.get("step") for entry in states}
        if len(steps) > 1:
            raise CheckpointError(
                f"parameters of shape {tuple(stack[0].shape)} have made different numbers of updates "
                "(training.freeze), for which icefall's layout has no place"
            )
        if steps == {None}:
            continue
        stored[numbers[stack[0]]] = stacked(states, stack[0])
    (clipping,) = optimizer.clippings
    if clipping is not None and clipping.step > 1 and stacks:
        first = stored[numbers[stacks[0][0]]]
        first["model_norms"] = clipping.norms.clone()
        first["num_clipped"] = int(clipping.clipped)
        if clipping.threshold is not None:
            first["model_norm_threshold"] = float(clipping.threshold)
    settings = {
        key: value for key, value in optimizer.param_groups[0].items() if key not in ("params", "name")
    }
    return {"state": stored, "param_groups": [{**settings, "params": list(range(len(parameters)))}]}


def the_group(optimizer: ScaledAdam, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters of the only group, or an error where icefall's layout does not fit."""
    if len(optimizer.param_groups) != 1 or set(optimizer.param_groups[0]["params"]) != set(parameters):
        raise CheckpointError(
            "icefall has the whole model in one group of parameters: set optimizer.head_lr_factor and "
            "optimizer.layer_decay to 1"
        )
    return optimizer.param_groups[0]["params"]


def stacks_of(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The parameters by dtype and shape, in the order in which icefall goes through them."""
    alike: dict[tuple[str, tuple[int, ...]], list[nn.Parameter]] = {}
    for parameter in parameters:
        alike.setdefault((str(parameter.dtype), tuple(parameter.shape)), []).append(parameter)
    return [alike[key] for key in sorted(alike)]


def optimizer_has_run(state: dict[str, Any]) -> bool:
    """Whether any parameter has a state."""
    return any(state["state"].values())


def unstacked(
    stored: dict[str, Any], number: int, stack: Sequence[nn.Parameter], source: object
) -> dict[str, Any]:
    """The state of one of a stack's parameters."""
    shape = stack[0].shape
    entry: dict[str, Any] = {"step": int(stored["step"])}
    for name, axis in AXES.items():
        if name in OF_SIZES and shape.numel() == 1:
            continue
        tensor = stored.get(name)
        if tensor is None or tensor.dim() <= axis or tensor.shape[axis] != len(stack):
            found = "nothing" if tensor is None else f"shape {tuple(tensor.shape)}"
            raise CheckpointError(
                f"{source}: the optimiser's {name} of the {len(stack)} parameters of shape {tuple(shape)} "
                f"has {found}, which does not fit the model"
            )
        own = tensor.select(axis, number)
        entry[name] = own.reshape(size_of(name, shape, own)).clone()
    return entry


def size_of(name: str, shape: torch.Size, tensor: Tensor) -> tuple[int, ...]:
    """The shape of a parameter's own state."""
    if name == "scale_grads":
        return (tensor.shape[0],)
    return () if name in OF_SIZES else tuple(shape)


def stacked(states: Sequence[dict[str, Any]], like: nn.Parameter) -> dict[str, Any]:
    """The states of parameters of one shape in one."""
    ones = (1,) * like.dim()
    whole: dict[str, Any] = {"step": states[0]["step"]}
    for name, axis in AXES.items():
        if name in states[0]:
            tensor = torch.stack([entry[name] for entry in states], dim=axis)
            whole[name] = tensor.reshape(*tensor.shape, *ones) if name in OF_SIZES else tensor
    return whole
