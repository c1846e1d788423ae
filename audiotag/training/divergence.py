"""Finding where numbers stopped being finite: an update is computed once more, watched module by module.

What is found goes into one line, and what is needed to see it again into a file: weights, the augmented
batches and the seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiotag.atomic import atomic_write
from audiotag.distillation.loss import DistillationLoss, build_distillation_loss, stored_widths
from audiotag.errors import CheckpointError
from audiotag.evaluation.scoring import AMP_DTYPES
from audiotag.labels import LabelTable
from audiotag.losses import Loss, build_loss
from audiotag.matrixproducts import allow_tf32
from audiotag.tagger import Tagger, build_tagger
from audiotag.training.batchcount import set_batch_count
from audiotag.training.checkpoint import load_weights
from audiotag.training.finitewatch import Finding, bad_clips, count_bad, owner, watch

FORMAT = "audiotag-divergence"
VERSION = 1


@dataclass(frozen=True)
class StepInput:
    """One batch as the model gets it, after augmentation.

    Args:
        features: (B,T,F), normalised; or the embeddings (B,D) of a frozen encoder.
        lengths: (B,) in frames; None of embeddings.
        targets: (B,C), or more columns where the loss takes what teachers say behind the labels.
        ids: of the B clips.
        seed: of the random choices in the model, dropout and the like.
    """

    features: Tensor
    lengths: Tensor | None
    targets: Tensor
    ids: list[str]
    seed: int


def investigate(
    tagger: Tagger,
    loss: Loss | DistillationLoss,
    inputs: Sequence[StepInput],
    *,
    amp: str = "off",
    scale: float = 1.0,
    group_size: int | None = None,
) -> Finding | None:
    """Compute the batches of an update once more; the first thing that is not finite, or None.

    The gradients of the tagger are lost. Modules are watched in the order in which they are computed.

    Args:
        tagger: with the weights that the update started from, in training mode.
        loss: of logits (B,C) and targets (B,C).
        inputs: the batches.
        amp: precision: off, fp16 or bf16.
        scale: factor on the loss in fp16.
        group_size: number of batches by which the loss is divided; None for that of `inputs`.
    """
    everyone = [name for batch in inputs for name in batch.ids]
    for name, parameter in tagger.named_parameters():
        if bad := count_bad(parameter):
            what = f"the weights {name}, before the update"
            return Finding("weights", owner(name), what, bad, parameter.numel(), everyone)
    tagger.zero_grad(set_to_none=True)
    for batch in inputs:
        count = len(tagger.labels)
        looked_at = {
            "the features of the batch": batch.features,
            "the targets": known(batch.targets[:, :count]),
            "what the teachers say": batch.targets[:, count:],
        }
        for what, tensor in looked_at.items():
            if bad := count_bad(tensor):
                return Finding("input", "", what, bad, tensor.numel(), bad_clips(tensor, batch.ids))
        with watch(tagger, batch.ids) as watcher:
            torch.manual_seed(batch.seed)
            device = batch.features.device.type
            dtype = AMP_DTYPES[amp]
            with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
                output = tagger(batch.features, batch.lengths, **loss.asks)
            if watcher.finding is not None:
                return watcher.finding
            value = loss(output, batch.targets)
            if bad := count_bad(value):
                return Finding("loss", "", "the loss", bad, value.numel(), batch.ids)
            (value * scale / (group_size or len(inputs))).backward()
            if watcher.finding is not None:
                return watcher.finding
    tagger.zero_grad(set_to_none=True)
    return None


def known(targets: Tensor) -> Tensor:
    """Labels; NaN, which stands for unknown, as 0."""
    return targets.where(~targets.isnan(), 0.0)


def dump(
    path: Path,
    tagger: Tagger,
    loss: Loss | DistillationLoss,
    inputs: Sequence[StepInput],
    *,
    config: dict[str, Any],
    step: int,
    scale: float = 1.0,
    group_size: int | None = None,
    finding: Finding | None = None,
    batch_count: float | None = None,
) -> None:
    """Write down what `replay` needs to compute an update once more.

    Args:
        path: the file.
        tagger, loss, inputs, scale, group_size: as for `investigate`.
        config: the resolved configuration.
        step: number of the update.
        finding: what was found, for whoever opens the file.
        batch_count: what the encoder was told, if it is told any.
    """
    state = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "config": config,
        "labels": tagger.labels.to_rows(),
        "model": {name: tensor.cpu() for name, tensor in tagger.state_dict().items()},
        "resting": [name for name, module in tagger.named_modules() if not module.training],
        "loss": {name: tensor.cpu() for name, tensor in loss.state_dict().items()},
        "inputs": [{name: on(value, "cpu") for name, value in vars(batch).items()} for batch in inputs],
        "scale": float(scale),
        "group_size": group_size or len(inputs),
        "finding": asdict(finding) if finding else None,
        "batch_count": batch_count,
    }
    with atomic_write(path, "wb") as file:
        torch.save(state, file)


def replay(path: Path, device: torch.device | str = "cpu") -> Finding | None:
    """Compute the update of a dump once more; the first thing that is not finite, or None."""
    state = read_dump(path)
    config, labels = state["config"], LabelTable.from_rows(state["labels"])
    # The precision of products is part of what happened.
    allow_tf32(config["training"]["tf32"])
    tagger = build_tagger(config["features"], config["encoder"], labels).to(device)
    load_weights(tagger, state["model"], path)
    tagger.train()
    resting = set(state["resting"])
    for name, module in tagger.named_modules():
        if name in resting:
            module.training = False
    if state.get("batch_count") is not None:
        set_batch_count(tagger, state["batch_count"])
    # The weights of the classes come with the dump, wherever they were from.
    loss = build_loss({**config["loss"], "class_weights": "none"}, labels)
    if section := config.get("distillation"):
        loss = build_distillation_loss(section, loss, stored_widths(state["loss"]))
    loss.to(device).load_state_dict(state["loss"])
    inputs = [
        StepInput(**{name: on(value, device) for name, value in batch.items()}) for batch in state["inputs"]
    ]
    return investigate(
        tagger,
        loss,
        inputs,
        amp=config["training"]["amp"],
        scale=state["scale"],
        group_size=state["group_size"],
    )


def read_dump(path: Path) -> dict[str, Any]:
    """Read a dump and check that it is one."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"dump not found: {path}") from None
    except PermissionError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: damaged or not a dump ({type(error).__name__})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or state.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: not a dump that this audiotag can replay; training writes one when its numbers are not "
            "finite"
        )
    return state


def on(value: Any, device: torch.device | str) -> Any:
    """A tensor on a device; anything else as it is."""
    return value.to(device) if isinstance(value, Tensor) else value
