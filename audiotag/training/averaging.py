"""Which weights to evaluate or export: an epoch's, the best epoch's, or the mean of several epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from audiotag.errors import CheckpointError
from audiotag.training.checkpoint import epoch_path, list_epochs, load_checkpoint


@dataclass(frozen=True)
class ChosenWeights:
    """Weights and where they come from; `checkpoint` is the last of the files, for everything else."""

    name: str
    weights: dict[str, torch.Tensor]
    checkpoint: dict[str, Any]
    files: list[str]


def choose_weights(
    exp_dir: Path, *, best: bool = False, epoch: int | None = None, avg: int = 1
) -> ChosenWeights:
    """The mean weights of `avg` epochs that end at the best, the given or the last epoch."""
    epochs = list_epochs(exp_dir)
    if not epochs:
        raise CheckpointError(f"{exp_dir} holds no epoch-<n>.pt; stage 5 makes them (./run.sh --stage 5)")
    last = epoch or epochs[-1]
    if best:
        last = best_epoch(exp_dir, epochs[-1])
    if avg > last:
        raise CheckpointError(f"epoch {last} cannot end an average of {avg} epochs: choose a smaller --avg")
    wanted = list(range(last - avg + 1, last + 1))
    missing = [number for number in wanted if number not in epochs]
    if missing:
        raise CheckpointError(
            f"{exp_dir} has no checkpoint of epoch {missing[0]}, which "
            f"{'the average' if avg > 1 else 'the evaluation'} needs; "
            f"there are {', '.join(map(str, epochs))} (training.keep_last decides how many are kept)"
        )
    paths = [epoch_path(exp_dir, number) for number in wanted]
    # The last is kept whole; of the others only the weights are wanted, one file in memory at a time.
    checkpoint = load_checkpoint(paths[-1])
    weights = checkpoint["model"] if avg == 1 else mean_weights(paths)
    name = f"{'best' if best else 'epoch'}{last}" + (f"-avg{avg}" if avg > 1 else "")
    return ChosenWeights(name, weights, checkpoint, [path.name for path in paths])


def best_epoch(exp_dir: Path, last_epoch: int) -> int:
    """The best epoch by the validation metric, as the last checkpoint knows it."""
    best = load_checkpoint(epoch_path(exp_dir, last_epoch))["best"]
    if best is None:
        raise CheckpointError(
            f"{exp_dir}: no best epoch is known, since training had no valid split (corpus.valid_share)"
        )
    return int(best["epoch"])


def mean_weights(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The arithmetic mean of the files' weights, summed in float64; integers are taken from the last."""
    total: dict[str, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    for path in paths:
        weights = load_checkpoint(path)["model"]
        if total and set(total) != {name for name, tensor in weights.items() if tensor.is_floating_point()}:
            raise CheckpointError(f"{path}: its weights have other names than those of {paths[0].name}")
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                value = tensor.double()
                total[name] = total[name] + value if name in total else value
    return {
        name: (total[name] / len(paths)).to(tensor.dtype) if name in total else tensor
        for name, tensor in weights.items()
    }
