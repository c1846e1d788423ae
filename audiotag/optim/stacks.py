"""Parameters of one shape that ScaledAdam updates together, stacked along a new leading axis.

A model of 700 tensors has less than 100 shapes, so that an update takes a tenth of the kernels. Each
parameter keeps statistics of its own: the result is that of updating them one by one.

Shapes: n parameters of a stack, each of shape (...).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SLOTS = ("scale_grads", "scale_exp_avg_sq")  # what scalars have no use for


@dataclass(frozen=True)
class Rules:
    """What an update goes by; see `ScaledAdam`.

    Args:
        lr: the rate of this update.
        beta1, beta2: decay of the running step and of the running squared gradient.
        eps: added to denominators.
        scalar_lr_scale: factor on the rate of scalars, and of the size of the others.
        param_min_rms, param_max_rms: between which a parameter's rms is kept.
        scalar_max: largest absolute value of a scalar.
        period: updates between two changes of size.
    """

    lr: float
    beta1: float
    beta2: float
    eps: float
    scalar_lr_scale: float
    param_min_rms: float
    param_max_rms: float
    scalar_max: float
    period: int


@dataclass(frozen=True)
class Gate:
    """What is known on the device alone of whether, and by how much, an update is made.

    Args:
        live: 1.0, or 0.0 for an update that must change nothing, neither weights nor state.
        factor: on all gradients; None for 1 where every gradient counts as it is.
    """

    live: Tensor
    factor: Tensor | None


class Stack:
    """Parameters of the same dtype, shape and number of updates, with their state.

    Args:
        parameters: n of them.
        states: what `state_of` gave of each; an empty one begins.
        period: updates between two changes of size.
    """

    def __init__(self, parameters: list[nn.Parameter], states: list[dict[str, Any]], period: int) -> None:
        self.parameters = parameters
        self.step: int = states[0].get("step", 0)
        first = parameters[0]
        self.dtype = torch.promote_types(first.dtype, torch.float32)
        self.is_scalar = first.numel() == 1
        self.axes = tuple(range(1, first.dim() + 1))
        count, shape = len(parameters), first.shape
        sizes = {"exp_avg_sq": shape, "delta": shape}
        if not self.is_scalar:
            sizes |= {"param_rms": (), "scale_grads": (period,), "scale_exp_avg_sq": ()}
        self.state = {
            name: torch.zeros(count, *size, dtype=self.dtype, device=first.device)
            for name, size in sizes.items()
        }
        for index, state in enumerate(states):
            for name, tensor in self.state.items():
                # Sums over another number of updates say nothing of this one.
                if name in state and state[name].shape == tensor[index].shape:
                    tensor[index].copy_(state[name])
        if not self.is_scalar and "param_rms" not in states[0]:
            self.state["param_rms"].copy_(self.rms(self.values()))

    def __len__(self) -> int:
        return len(self.parameters)

    def state_of(self, index: int) -> dict[str, Any]:
        """The state of one parameter; its tensors are parts of the stack's."""
        return {"step": self.step, **{name: tensor[index] for name, tensor in self.state.items()}}

    def values(self) -> Tensor:
        """The parameters (n,...); a single one without a copy."""
        if len(self.parameters) == 1:
            return self.parameters[0].detach()[None].to(self.dtype)
        return torch.stack([parameter.detach() for parameter in self.parameters]).to(self.dtype)

    def gradients(self) -> list[Tensor]:
        """The gradient of each parameter, 0 where there is none."""
        return [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self.parameters
        ]

    def norm_weights(self, scalar_lr_scale: float) -> Tensor:
        """Factors (n,) by which the norms of gradients count: the change of each as its update goes by it."""
        if self.is_scalar:
            return torch.full_like(self.state["delta"].view(len(self)), scalar_lr_scale)
        return self.state["param_rms"]

    def update(self, rules: Rules, gate: Gate) -> None:
        """Change the parameters by their gradients; `step` stays, for the caller to count."""
        p, g = self.values(), torch.stack(self.gradients()).to(self.dtype)
        if gate.factor is not None:
            # Infinite ones too are to be 0 where the factor is.
            g.mul_(gate.factor).masked_fill_(gate.factor == 0, 0.0)
        v, m = self.state["exp_avg_sq"], self.state["delta"]
        spare = g.square()  # memory is taken once, which on a CPU costs as much as the arithmetic
        v.lerp_(spare, gate.live * (1.0 - rules.beta2))
        z = None if self.is_scalar else self._size_change(p, g, spare, rules, gate)
        torch.sqrt(v, out=spare)
        correction = 1.0 - rules.beta2 ** (self.step + 1)
        if correction < 0.99:  # the first 200 updates or so; what it does later is less than 0.5 %
            spare.mul_(correction**-0.5)
        change = g.div_(spare.add_(rules.eps))
        if self.is_scalar:
            change.mul_(-rules.lr * rules.scalar_lr_scale)
        else:
            floor = self.state["param_rms"].clamp(min=rules.param_min_rms)
            change.mul_(self._wide(-rules.lr * floor))
        if z is not None:
            change.addcmul_(p, self._wide(z))
        m.lerp_(change, gate.live * (1.0 - rules.beta1))
        p = torch.addcmul(p, m, gate.live, out=spare)
        if self.is_scalar:
            limited = p.clamp(-rules.scalar_max, rules.scalar_max)
            p = torch.where(gate.live > 0, limited, p)
        torch._foreach_copy_(self.parameters, list(p.unbind()))

    def rms(self, p: Tensor) -> Tensor:
        """Root of the mean square (n,) of each parameter."""
        return p.square().mean(dim=self.axes).sqrt()

    def _size_change(self, p: Tensor, g: Tensor, spare: Tensor, rules: Rules, gate: Gate) -> Tensor | None:
        """Note how the loss depends on the sizes; relative changes (n,) of them, where those are due."""
        rms, slots, variance = self.state["param_rms"], *(self.state[name] for name in SLOTS)
        live = gate.live > 0
        slot = slots[:, self.step % rules.period]
        by_size = torch.mul(p, g, out=spare).sum(dim=self.axes)
        slot.copy_(torch.where(live, by_size, slot))
        if self.step % rules.period != rules.period - 1:
            return None
        rms.copy_(torch.where(live, self.rms(p), rms))
        beta = rules.beta2**rules.period
        variance.lerp_(slots.square().mean(dim=1), gate.live * (1.0 - beta))
        bias = 1.0 - beta ** ((self.step + 1) // rules.period)
        z = slots.sum(dim=1) / (variance.sqrt() + rules.eps)
        z = z * (-rules.lr * rules.scalar_lr_scale * bias**0.5)
        z = torch.where(rms < rules.param_min_rms, 0.0, z).clamp(-0.1, 0.1)
        return torch.minimum(z, (rules.param_max_rms - rms) / rms)

    def _wide(self, values: Tensor) -> Tensor:
        """(n,) as (n,1,...), to be multiplied with parameters."""
        return values.view(-1, *(1 for _ in self.axes))
