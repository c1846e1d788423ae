"""Parts of the model that are not trained, or not from the start."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from audiotag.errors import ConfigError


@dataclass(frozen=True)
class Part:
    """A part of the model that is frozen up to an epoch.

    Args:
        name: the module's or parameter's dotted name.
        module: the module; None where a parameter is named.
        parameters: all that lie in it.
        last_epoch: the last epoch, counted from 1, in which it is frozen; infinite for good.
    """

    name: str
    module: nn.Module | None
    parameters: list[nn.Parameter]
    last_epoch: float


class Freezer:
    """Sets which parameters are trained, by their `requires_grad`, and which modules are in evaluation mode.

    What is frozen depends on the number of the epoch alone, so a resumed run needs no state of it.
    DistributedDataParallel reads `requires_grad` when it is made: make it anew when `apply` returns True.

    Args:
        tagger: the model.
        sections: the entries of `training.freeze`.
    """

    def __init__(self, tagger: nn.Module, sections: list[dict[str, Any]]) -> None:
        self.parts = [
            find_part(tagger, name, math.inf if section["epochs"] is None else section["epochs"])
            for section in sections
            for name in section["modules"]
        ]
        self.frozen: list[Part] = []
        listed = {id(parameter) for part in self.parts for parameter in part.parameters}
        if all(id(parameter) in listed for parameter in tagger.parameters()):
            names = ", ".join(part.name for part in self.parts)
            raise ConfigError(
                f"training.freeze: nothing is left to train in epoch 1, as the model is made of {names}: "
                "leave a part out, such as the head"
            )

    def apply(self, epoch: int) -> bool:
        """Freeze what is frozen in this epoch, train the rest; returns whether a parameter changed sides."""
        self.frozen = [part for part in self.parts if epoch <= part.last_epoch]
        frozen = {id(parameter) for part in self.frozen for parameter in part.parameters}
        changed = False
        for part in self.parts:
            for parameter in part.parameters:
                trained = id(parameter) not in frozen
                changed |= parameter.requires_grad != trained
                parameter.requires_grad_(trained)
        return changed

    def set_modes(self) -> None:
        """Put frozen modules into evaluation mode, since their dropout would teach nobody; comes after
        `train()`."""
        for part in self.frozen:
            if part.module is not None:
                part.module.eval()


def find_part(tagger: nn.Module, name: str, last_epoch: float) -> Part:
    """The module or parameter of this name, or an error that tells the nearest one."""
    # A parameter that several layers share has several names, and may be frozen by each.
    own = dict(tagger.named_parameters(remove_duplicate=False))
    inside = [parameter for full, parameter in own.items() if f"{full}.".startswith(f"{name}.")]
    if not inside:
        raise ConfigError(
            f"training.freeze: no part of the model with parameters is called {name!r}{nearest(name, own)}"
        )
    return Part(name, None if name in own else tagger.get_submodule(name), inside, last_epoch)


def nearest(name: str, parameter_names: dict[str, nn.Parameter]) -> str:
    """The part that was likely meant, else the parts there are, in brackets."""
    parts = dict.fromkeys(
        full.rsplit(".", depth)[0] for full in parameter_names for depth in range(full.count(".") + 1)
    )
    inner = [part for part in parts if part.endswith(f".{name}")]
    near = inner or difflib.get_close_matches(name, parts, n=1)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (there are {', '.join(part for part in parts if '.' not in part)}, and what lies in them)"
