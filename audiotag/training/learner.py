"""One update of a model: gradients of some batches, clipping, the optimiser's step; in any precision, on any
number of processes."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from audiotag.distillation.loss import DistillationLoss
from audiotag.distributed import World
from audiotag.evaluation.scoring import AMP_DTYPES
from audiotag.losses import Loss
from audiotag.tagger import Tagger
from audiotag.training.batchcount import set_batch_count
from audiotag.training.divergence import StepInput
from audiotag.training.stepflags import StepFlags

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What came of an update.

    Args:
        norm: of the gradient, before clipping.
        skipped: whether an overflow in fp16 made the scaler leave the weights as they were.
        stop: whether a process was asked to stop.
        bad: whether a loss or gradient was not finite, so that the weights are as before.
    """

    norm: Tensor
    skipped: Tensor
    stop: bool
    bad: bool


class Learner:
    """A tagger and all that changes its weights.

    Args:
        tagger: on its device.
        loss: of logits (B,C) and targets (B,C); it may have parameters that are trained with the tagger's.
        optimizer: over the parameters of both; its groups' `lr` at this moment are the base rates.
        world: the processes.
        amp: precision of the forward pass: off, fp16 or bf16.
        clip_norm: largest norm of the gradient; None does not clip.
        grad_scaler: `initial_scale` and `growth_interval` of fp16; None for torch's.
        lagged: whether to learn one update late of what other processes and the GPU know, see `StepFlags`;
            None does so where it saves time and the optimiser can keep the weights meanwhile.
    """

    def __init__(
        self,
        tagger: Tagger,
        loss: Loss | DistillationLoss,
        optimizer: torch.optim.Optimizer,
        world: World,
        *,
        amp: str = "off",
        clip_norm: float | None = None,
        grad_scaler: dict[str, Any] | None = None,
        lagged: bool | None = None,
    ) -> None:
        self.tagger = tagger
        self.loss = loss
        self.optimizer = optimizer
        self.world = world
        self.amp = amp
        self.amp_dtype = AMP_DTYPES[amp]
        self.clip_norm = clip_norm or float("inf")
        scale = grad_scaler or {"initial_scale": 65536.0, "growth_interval": 2000}
        self.growth_interval = scale["growth_interval"]
        self.scaler = torch.amp.GradScaler(
            world.device.type,
            init_scale=scale["initial_scale"],
            growth_interval=self.growth_interval,
            enabled=amp == "fp16",
        )
        self.batch_count: float | None = None
        self.model: nn.Module = tagger
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        if lagged is None:
            lagged = world.device.type == "cuda" and can_be_held(optimizer)
        self.flags = StepFlags(world, lagged)
        self._losses: list[Tensor] = []

    def distribute(self) -> None:
        """Let gradients be averaged over the processes; again whenever other parameters are trained."""
        self.model = self.tagger
        if self.world.size > 1:
            device = self.world.device
            self.model = DistributedDataParallel(
                self.tagger,
                device_ids=[device.index] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                broadcast_buffers=False,
                find_unused_parameters=getattr(self.tagger.encoder, "skips_parameters", False),
            )

    def add_gradient(self, inputs: StepInput, group_size: int, last: bool) -> Tensor:
        """Add the gradient of one of the `group_size` batches of an update; returns the loss as a mean.

        Gradients are exchanged between processes only with the `last` one.
        """
        torch.manual_seed(inputs.seed)
        with self._exchange(last):
            with self.autocast():
                output = self.model(inputs.features, inputs.lengths, **self.loss.asks)
            loss = self.loss(output, inputs.targets)
            self.scaler.scale(loss / group_size).backward()
        self._losses.append(loss.detach())
        return self.loss.as_mean(loss.detach(), inputs.targets)

    def set_batch_count(self, count: float) -> None:
        """Tell the encoder how far training is, if it wants to know."""
        if set_batch_count(self.tagger, count):
            self.batch_count = count

    def update(self, factor: float, stop: bool = False) -> Outcome:
        """Change the weights by the gradients that were added up, and clear them.

        Args:
            factor: on the base learning rates.
            stop: this process was asked to stop; the outcome tells whether any was.
        """
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor
        self._average_loss_gradients()
        self.scaler.unscale_(self.optimizer)
        trained = [*self.tagger.parameters(), *self.loss.parameters()]
        norm = nn.utils.clip_grad_norm_(trained, self.clip_norm)
        overflow = ~norm.isfinite()
        bad = ~torch.stack(self._losses).isfinite().all()
        skipped = overflow & ~bad
        if not self.scaler.is_enabled():
            bad, skipped = bad | overflow, torch.zeros_like(bad)
        stop, known_bad = self.flags.exchange(stop, bad)
        if not known_bad:
            self._step()
        self._losses.clear()
        self.optimizer.zero_grad(set_to_none=True)
        return Outcome(norm.detach(), skipped, stop, known_bad)

    def autocast(self) -> torch.autocast:
        """Mixed precision as configured; losses are taken outside of it, in float32."""
        return torch.autocast(
            self.world.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
        )

    def state_dict(self) -> dict[str, Any]:
        """State of the optimiser, the scaler and, where it is trained, the loss."""
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        return {**state, "loss": self.loss.state_dict()} if has_parameters(self.loss) else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state; settings such as weight decay are and remain those of the configuration."""
        # The rate of the last update stays, for a checkpoint that is written before the next one.
        settings = [
            {key: value for key, value in group.items() if key not in ("params", "lr")}
            for group in self.optimizer.param_groups
        ]
        if fits(state["optimizer"], self.optimizer):
            self.optimizer.load_state_dict(state["optimizer"])
            for group, own in zip(self.optimizer.param_groups, settings, strict=True):
                group.update(own)
        else:
            logger.warning("the optimiser is of another kind than in the checkpoint: its state begins anew")
        if has_parameters(self.loss):
            if "loss" in state:
                self.loss.load_state_dict(state["loss"])
            else:
                logger.warning("the checkpoint holds no state of the loss: what is trained of it begins anew")
        if scaler := state["scaler"]:  # empty where training was not in fp16 before
            self.scaler.load_state_dict({**scaler, "growth_interval": self.growth_interval})

    def _step(self) -> None:
        if self.flags.lagged and not self.scaler.is_enabled():
            # What fp16's scaler does: with `found_inf` above 0 the fused kernels leave all as it is.
            self.optimizer.grad_scale, self.optimizer.found_inf = None, self.flags.bad
            self.optimizer.step()
            del self.optimizer.grad_scale, self.optimizer.found_inf
            return
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _average_loss_gradients(self) -> None:
        """Do for the loss what DDP does for the model, which it is no part of."""
        if self.world.size > 1:
            for parameter in self.loss.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world.size

    def _exchange(self, wanted: bool) -> contextlib.AbstractContextManager:
        if wanted or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()


def has_parameters(loss: nn.Module) -> bool:
    """Whether a loss has something to train."""
    return next(loss.parameters(), None) is not None


def fits(stored: dict[str, Any], optimizer: torch.optim.Optimizer) -> bool:
    """Whether a stored state is of an optimiser with the same settings and groups of parameters."""
    now = optimizer.state_dict()["param_groups"]
    if len(stored["param_groups"]) != len(now):
        return False
    return all(
        before.keys() == after.keys() and len(before["params"]) == len(after["params"])
        for before, after in zip(stored["param_groups"], now, strict=True)
    )


def can_be_held(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimiser can be told on the device to leave the weights as they are."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))
