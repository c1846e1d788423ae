"""ScaledAdam: Adam with steps relative to the size of each parameter, which is learnt as well.

Dan Povey's optimiser of the Zipformer (Yao et al., ICLR 2024). A step moves a parameter by a share of its
root mean square, so that one rate suits all of them, whatever the scale of the loss; every few updates its
size as a whole moves by the gradient with respect to the logarithm of it. Gradients are clipped by the
median of their recent norms, see `MedianClipping`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from audiotag.optim.medianclipping import MedianClipping
from audiotag.optim.stacks import Gate, Rules, Stack


class ScaledAdam(torch.optim.Optimizer):
    """See above; parameters that are frozen (`requires_grad` false) take no part.

    With `found_inf` set to a tensor above 0, as GradScaler does it, an update changes nothing, state
    included, and nobody waits for the device to learn whether it was so: the number of updates, which
    decides what is due, is put right at the next one.

    Args:
        params: parameters or groups of them; each group is clipped by itself.
        lr: rate, relative to a parameter's size.
        betas: decay of the running step, and of the running squared gradient.
        eps: added to denominators.
        clipping_scale: a gradient's norm is limited to this times the median of the last ones; None does not
            clip.
        scalar_lr_scale: factor on the rate of scalars (parameters of one element), and of sizes.
        param_min_rms: smaller parameters move as if they had this rms.
        param_max_rms: sizes do not grow beyond this rms.
        scalar_max: largest absolute value of a scalar.
        size_update_period: updates between two changes of size.
        clipping_update_period: updates between two settings of the threshold.
        names: of parameters, for reports.
    """

    # GradScaler then hands `found_inf` over in place of waiting for it.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.045,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        clipping_scale: float | None = 2.0,
        scalar_lr_scale: float = 0.1,
        param_min_rms: float = 1e-5,
        param_max_rms: float = 3.0,
        scalar_max: float = 10.0,
        size_update_period: int = 4,
        clipping_update_period: int = 100,
        names: Mapping[nn.Parameter, str] | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "clipping_scale": clipping_scale,
            "scalar_lr_scale": scalar_lr_scale,
            "param_min_rms": param_min_rms,
            "param_max_rms": param_max_rms,
            "scalar_max": scalar_max,
            "size_update_period": size_update_period,
            "clipping_update_period": clipping_update_period,
        }
        super().__init__(params, defaults)
        self.names = dict(names or {})
        self.clippings = [new_clipping(group) for group in self.param_groups]
        # By group: the stacks, of which parameters they are made, and the places of these in the group.
        self._stacks: list[list[Stack]] = [[] for _ in self.param_groups]
        self._trained: list[tuple[bool, ...]] = [() for _ in self.param_groups]
        self._positions: list[Tensor | None] = [None for _ in self.param_groups]
        self._told: Told | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters by their gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.settle()
        found_inf = getattr(self, "found_inf", None)
        if (scale := getattr(self, "grad_scale", None)) is not None:
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            torch._foreach_div_(gradients, scale)
        for index, group in enumerate(self.param_groups):
            self._gather(index)
            if self._stacks[index]:
                self._update_group(index, rules_of(group), found_inf)
        self._count(1)
        if found_inf is not None:
            self._told = Told(found_inf)
        return loss

    def settle(self) -> None:
        """Learn whether the last update was made."""
        if self._told is not None:
            told, self._told = self._told, None
            if told.read() > 0:
                self._count(-1)

    def report(self) -> tuple[dict[str, float], list[str]]:
        """Figures of the clipping by name, and what is worth a line of the log; waits for the device."""
        figures: dict[str, float] = {}
        remarks = []
        for group, clipping in zip(self.param_groups, self.clippings, strict=True):
            if clipping is None:
                continue
            own, culprit = clipping.report()
            several = f"{group.get('name', '')}/" if len(self.param_groups) > 1 else ""
            figures |= {f"{several}{name}": value for name, value in own.items()}
            if culprit is not None:
                position, share, factor = culprit
                name = self.names.get(group["params"][position], f"parameter {position}")
                remarks.append(
                    f"a gradient was clipped to {factor:.2g} of its norm, {share:.0%} of whose square "
                    f"came from {name}".replace("%", " %")
                )
        return figures, remarks

    def state_dict(self) -> dict[str, Any]:
        """The state by parameter, as of torch's own optimisers, and that of the clipping by group."""
        self.settle()
        for stacks in self._stacks:
            self._hand_out(stacks)
        clipping = [one and one.state_dict() for one in self.clippings]
        return {**super().state_dict(), "clipping": clipping}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go back to a state; settings of the groups other than the rate are and remain those of now."""
        self._told = None
        own = [{name: group[name] for name in group if name in self.defaults} for group in self.param_groups]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "clipping"})
        for group, settings in zip(self.param_groups, own, strict=True):
            group.update({**settings, "lr": group["lr"]})
        self._stacks = [[] for _ in self.param_groups]
        self._trained = [() for _ in self.param_groups]
        self.clippings = [new_clipping(group) for group in self.param_groups]
        for clipping, state in zip(self.clippings, state_dict.get("clipping", ()), strict=False):
            if clipping is not None and state is not None:
                clipping.load_state_dict(state)

    def _gather(self, index: int) -> None:
        """Make the stacks of a group anew where other parameters are trained than before."""
        group = self.param_groups[index]
        trained = tuple(parameter.requires_grad for parameter in group["params"])
        if trained == self._trained[index]:
            return
        self._hand_out(self._stacks[index])
        alike: dict[tuple[Any, ...], list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.requires_grad:
                # What was frozen for a time has made fewer updates than others of its shape.
                key = (str(parameter.dtype), tuple(parameter.shape), -self.state[parameter].get("step", 0))
                alike.setdefault(key, []).append(parameter)
        period = group["size_update_period"]
        self._stacks[index] = [
            Stack(alike[key], [self.state[parameter] for parameter in alike[key]], period)
            for key in sorted(alike)
        ]
        # The state of before would take memory as long as it is held.
        self._hand_out(self._stacks[index])
        self._trained[index] = trained
        place = {parameter: number for number, parameter in enumerate(group["params"])}
        order = [place[parameter] for stack in self._stacks[index] for parameter in stack.parameters]
        self._positions[index] = torch.tensor(order, device=group["params"][0].device)

    def _hand_out(self, stacks: list[Stack]) -> None:
        """Note the state of each parameter of stacks."""
        for stack in stacks:
            for number, parameter in enumerate(stack.parameters):
                self.state[parameter] = stack.state_of(number)

    def _update_group(self, index: int, rules: Rules, found_inf: Tensor | None) -> None:
        stacks, clipping = self._stacks[index], self.clippings[index]
        live = torch.ones((), dtype=stacks[0].dtype, device=stacks[0].parameters[0].device)
        if found_inf is not None:
            live = live * (found_inf.reshape(()) <= 0)
        factor = None
        if clipping is not None:
            norms = torch._foreach_norm([gradient for stack in stacks for gradient in stack.gradients()])
            weights = torch.cat([stack.norm_weights(rules.scalar_lr_scale) for stack in stacks])
            squares = (torch.stack(norms) * weights).square()
            factor = clipping.factor(squares, self._positions[index], live)
        if found_inf is not None:
            factor = live if factor is None else torch.where(live > 0, factor, 0.0)
        gate = Gate(live, factor)
        for stack in stacks:
            stack.update(rules, gate)

    def _count(self, updates: int) -> None:
        """Note updates that were made, or were not after all."""
        for stacks, clipping in zip(self._stacks, self.clippings, strict=True):
            for stack in stacks:
                stack.step += updates
            if clipping is not None and stacks:
                clipping.step += updates


class Told:
    """A number on its way from the device."""

    def __init__(self, number: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._copy = number.detach().clone()
        if number.device.type == "cuda":
            self._copy = torch.empty(number.shape, dtype=number.dtype, pin_memory=True)
            self._copy.copy_(number, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> float:
        """The number; it has long arrived where a whole update lies between."""
        if self._event is not None:
            self._event.synchronize()
        return float(self._copy)


def rules_of(group: Mapping[str, Any]) -> Rules:
    """The settings of a group as its stacks take them."""
    beta1, beta2 = group["betas"]
    same = ("lr", "eps", "scalar_lr_scale", "param_min_rms", "param_max_rms", "scalar_max")
    return Rules(
        **{name: group[name] for name in same},
        beta1=beta1,
        beta2=beta2,
        period=group["size_update_period"],
    )


def new_clipping(group: Mapping[str, Any]) -> MedianClipping | None:
    """The clipping of a group, at its start; None where there is none."""
    if group["clipping_scale"] is None:
        return None
    first = group["params"][0]
    like = torch.empty((), dtype=torch.promote_types(first.dtype, torch.float32), device=first.device)
    return MedianClipping(group["clipping_scale"], group["clipping_update_period"], like)
