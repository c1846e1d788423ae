"""Averages of the weights that training keeps beside them: EMA, running average, SWA; all in float64.

Each takes in samples of the weights, one at a time: average = (1 - share) * average + share * weights. The
share of a new sample is
    ema               1 - decay, after every update
    running_average   1/n for the n-th sample, one every `period` updates: period / update, which gives the
                      plain mean of the samples so far
    swa               1/n likewise, one at the end of every epoch of a range
Every process computes the same, since their weights are the same after each update.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from audiotag.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

# Weights are turned into float64 in pieces of about this many elements: few enough to stay in a CPU's cache.
PIECE = 2**16


class Average:
    """The average of the samples taken in so far, on the device of the weights.

    Args:
        weights: what it starts from; the first sample of a plain mean leaves nothing of it.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.samples = 0
        self.weights = {name: tensor.to(torch.float64, copy=True) for name, tensor in weights.items()}

    @torch.no_grad()
    def add(self, weights: dict[str, Tensor], share: float) -> None:
        """Move towards the weights; those that equal their average leave it as it is, to the last bit."""
        self.samples += 1
        for names in pieces(self.weights):
            torch._foreach_lerp_(
                [self.weights[name] for name in names], [weights[name].double() for name in names], share
            )

    def restore(self, samples: int, weights: dict[str, Tensor], kind: str) -> None:
        """Go back to a stored state, exactly."""
        for name, tensor in self.weights.items():
            stored = weights.get(name)
            if stored is None or stored.shape != tensor.shape or stored.dtype != tensor.dtype:
                found = "nothing" if stored is None else f"{tuple(stored.shape)} in {stored.dtype}"
                raise CheckpointError(
                    f"the checkpoint's {kind} does not fit the model: {name} should have shape "
                    f"{tuple(tensor.shape)} in {tensor.dtype}, found {found}"
                )
            tensor.copy_(stored)
        self.samples = samples


class WeightAverages:
    """All averages that a run keeps.

    Args:
        tagger: the model, on its device and with the weights that training starts from.
        ema: `decay` and `warmup` of the exponential moving average, or None.
        running_average: `period` of the running average, or None.
        swa: `first_epoch` and `last_epoch` of stochastic weight averaging, or None.
    """

    def __init__(
        self,
        tagger: nn.Module,
        ema: dict[str, Any] | None = None,
        running_average: dict[str, Any] | None = None,
        swa: dict[str, Any] | None = None,
    ) -> None:
        self.tagger = tagger
        wanted = {"ema": ema, "running_average": running_average, "swa": swa}
        self.settings = {kind: settings for kind, settings in wanted.items() if settings is not None}
        # All memory is taken now: a run that has too little of it should not find out epochs later.
        self.averages = {kind: Average(float_tensors(tagger)) for kind in self.settings}

    def update(self, step: int) -> None:
        """Take in the weights after update number `step`, the first of a run being 1.

        To be called after each, also after one that fp16 skipped.
        """
        due = {}
        if "ema" in self.settings:
            due["ema"] = 1.0 - self.ema_decay()
        if "running_average" in self.settings and step % self.settings["running_average"]["period"] == 0:
            due["running_average"] = 1.0 / (self.averages["running_average"].samples + 1)
        self.take_in(due)

    def end_epoch(self, epoch: int) -> None:
        """Take in the weights at the end of an epoch, the first being 1; before its checkpoint is written."""
        swa = self.settings.get("swa")
        if swa and swa["first_epoch"] <= epoch <= (swa.get("last_epoch") or epoch):
            self.take_in({"swa": 1.0 / (self.averages["swa"].samples + 1)})

    def take_in(self, shares: dict[str, float]) -> None:
        """Add the present weights to averages, each with its share."""
        if shares:
            weights = float_tensors(self.tagger)
            for kind, share in shares.items():
                self.averages[kind].add(weights, share)

    def ema_decay(self) -> float:
        """The decay of the coming sample, lower at first with `warmup`."""
        settings, number = self.settings["ema"], self.averages["ema"].samples + 1
        warm = (1 + number) / (10 + number) if settings["warmup"] else 1.0
        return min(settings["decay"], warm)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores, by kind: its settings, number of samples and float64 weights.

        The tensors are those in use, not copies. Averages without samples store no weights.
        """
        return {
            kind: {
                **self.settings[kind],
                "samples": average.samples,
                "weights": dict(average.weights) if average.samples else {},
            }
            for kind, average in self.averages.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what `state_dict` gave; the tagger must have the weights of the same checkpoint.

        An average that the checkpoint lacks begins at those weights.
        """
        for kind, average in self.averages.items():
            stored = state.get(kind)
            if stored is None:
                logger.warning("the checkpoint holds no %s: it begins here", kind)
            if stored is None or not stored["samples"]:
                self.averages[kind] = Average(float_tensors(self.tagger))
                continue
            period = self.settings[kind].get("period")
            if stored.get("period") != period:
                raise CheckpointError(
                    f"the checkpoint's {kind} has samples every {stored.get('period')} updates, now "
                    f"training.{kind}.period is {period}: their mean would be none of either; keep the period"
                )
            average.restore(stored["samples"], stored["weights"], kind)

    def weights(self, kind: str) -> dict[str, Tensor] | None:
        """A whole state dict of the tagger with the averages in it; None while there is no sample yet.

        What cannot be averaged, such as counters, is as the tagger has it.
        """
        if kind not in self.averages:
            raise ConfigError(f"training.{kind} is not set, so that the run keeps no such average")
        average = self.averages[kind]
        if not average.samples:
            return None
        return {
            name: average.weights[name].to(tensor.dtype) if name in average.weights else tensor.clone()
            for name, tensor in self.tagger.state_dict().items()
        }

    @contextmanager
    def swapped(self, tagger: nn.Module, kind: str) -> Iterator[str]:
        """The tagger with other weights inside the block, and with its own again, bit for bit, after it.

        Args:
            tagger: the model.
            kind: `model` leaves its own in place, as does an average without samples.

        Yields which weights are in: the kind or `model`.
        """
        others = None if kind == "model" else self.weights(kind)
        if others is None:
            yield "model"
            return
        own = {name: tensor.clone() for name, tensor in tagger.state_dict().items()}
        put(tagger, others)
        try:
            yield kind
        finally:
            put(tagger, own)


@torch.no_grad()
def put(tagger: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy values into the tensors that the tagger has, which optimisers and others hold on to."""
    for name, tensor in tagger.state_dict().items():
        tensor.copy_(weights[name])


def float_tensors(tagger: nn.Module) -> dict[str, Tensor]:
    """What can be averaged, without copies: parameters, frozen ones too, and buffers that are no counters."""
    return {name: tensor for name, tensor in tagger.state_dict().items() if tensor.is_floating_point()}


def pieces(tensors: dict[str, Tensor]) -> Iterator[list[str]]:
    """The names in groups of at most PIECE elements, or one tensor."""
    group: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if group and size + tensor.numel() > PIECE:
            yield group
            group, size = [], 0
        group.append(name)
        size += tensor.numel()
    if group:
        yield group
