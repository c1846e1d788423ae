"""Watching a model compute: the first tensor that is not finite, and which module it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NAMED_CLIPS = 5


@dataclass(frozen=True)
class Finding:
    """The first thing that was not finite.

    Args:
        place: weights, input, forward, loss or backward.
        module: dotted name of the module, or of the parameter for `weights`; empty for input and loss.
        what: the tensor, in words.
        bad: how many of its values are not finite.
        total: of how many.
        ids: clips of the batch: those with such values, where they can be told apart, else all.
    """

    place: str
    module: str
    what: str
    bad: int
    total: int
    ids: list[str]

    def __str__(self) -> str:
        return f"{self.what}: {self.bad} of {self.total} values are not finite (clips {some_of(self.ids)})"


def some_of(ids: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(ids) - NAMED_CLIPS} more" if len(ids) > NAMED_CLIPS else ""
    return ", ".join(ids[:NAMED_CLIPS]) + more


@contextmanager
def watch(tagger: nn.Module, ids: list[str]) -> Iterator[Watcher]:
    """Look at what all modules hand on, forward and backward, while the block runs."""
    watcher = Watcher(ids)
    hooks = []
    for name, module in tagger.named_modules():
        hooks.append(module.register_forward_pre_hook(watcher.before(name)))
        hooks.append(module.register_forward_hook(watcher.after(name)))
    for name, parameter in tagger.named_parameters():
        if parameter.requires_grad:
            hooks.append(parameter.register_hook(watcher.gradient(f"the gradient of {name}", owner(name))))
    compiled = any(module._compiled_call_impl for module in tagger.modules())
    try:
        # Compiled code would pass by the hooks.
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield watcher
    finally:
        for hook in hooks:
            hook.remove()


class Watcher:
    """Remembers the first tensor that is not finite.

    Args:
        ids: clips of the batch.
    """

    def __init__(self, ids: list[str]) -> None:
        self.finding: Finding | None = None
        self._ids = ids
        self._inside: list[str] = []

    def before(self, name: str) -> Callable[..., None]:
        """A hook for what a module gets: if that is bad, the module around it has computed it."""

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            around = self._inside[-1] if self._inside else ""
            self._inside.append(name)
            self._look(inputs, "forward", around, f"what {around or 'the tagger'} hands to {name}")

        return hook

    def after(self, name: str) -> Callable[..., None]:
        """A hook for what a module returns, and for the gradient that comes back to it."""

        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self._inside.pop()
            self._look((output,), "forward", name, f"the output of {name or 'the tagger'}")
            for tensor in tensors_in((output,)):
                if tensor.requires_grad and self.finding is None:
                    where = f"the gradient at the output of {name or 'the tagger'}"
                    tensor.register_hook(self.gradient(where, name))

        return hook

    def gradient(self, what: str, name: str) -> Callable[[Tensor], None]:
        """A hook for a gradient."""

        def hook(gradient: Tensor) -> None:
            self._look((gradient,), "backward", name, what)

        return hook

    def _look(self, values: tuple[Any, ...], place: str, name: str, what: str) -> None:
        if self.finding is not None:
            return
        for tensor in tensors_in(values):
            if bad := count_bad(tensor):
                direction = f" in the {place} pass"
                clips = bad_clips(tensor, self._ids)
                self.finding = Finding(place, name, what + direction, bad, tensor.numel(), clips)
                return


def tensors_in(values: Any) -> Iterator[Tensor]:
    """The tensors of floating point in what a module takes or returns."""
    if isinstance(values, Tensor):
        if values.is_floating_point():
            yield values
    elif isinstance(values, dict):
        yield from tensors_in(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)


def count_bad(tensor: Tensor) -> int:
    """How many values are inf or NaN."""
    return int((~tensor.detach().isfinite()).sum())


def bad_clips(tensor: Tensor, ids: list[str]) -> list[str]:
    """The clips whose rows of a tensor are not finite; all where its rows are not those of the clips."""
    if tensor.dim() < 2 or len(tensor) != len(ids):
        return ids
    rows = (~tensor.detach().isfinite()).flatten(1).any(dim=1).tolist()
    return [name for name, bad in zip(ids, rows, strict=True) if bad]


def owner(parameter: str) -> str:
    """The module that a parameter belongs to."""
    return parameter.rpartition(".")[0]
