"""Means of the weights in checkpoint files, summed in float64 with one file in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from audiotag.errors import CheckpointError
from audiotag.evaluation.conditions import KINDS
from audiotag.training.checkpoint import load_checkpoint

Weights = dict[str, Tensor]

# What may differ between models whose weights are averaged: it changes training or where features come from.
FREE_FEATURES = ("storage",)
FREE_ENCODER = (
    "freeze",
    "dropout",
    "input_dropout",
    "attention_dropout",
    "activation_dropout",
    "drop_path",
    "layer_drop",
    "gradient_decay",
    "last_layer_only",
    "output_dropout",
    "warmup_batches",
    "encoder_unmasked_dim",
)


@dataclass(frozen=True)
class Taken:
    """Weights that were taken from checkpoint files.

    Args:
        weights: those of the one file, or the mean of several.
        state: the checkpoint of the last file.
        kind: of the weights that each file gave.
        measured: of the weights that validation measured, by file.
        averaged: what files of bin/average.py tell of their origin, by file.
    """

    weights: Weights
    state: dict[str, Any]
    kind: str
    measured: dict[Path, str] = field(default_factory=dict)
    averaged: dict[Path, dict[str, Any]] = field(default_factory=dict)


class WeightedMean:
    """The sum of models with their factors, divided by the sum of the factors."""

    def __init__(self) -> None:
        self.factors = 0
        self.total: Weights = {}
        self.first: tuple[Path, dict[str, Any]] | None = None
        self.train_data: list[Any] = []

    def add(self, path: Path, state: dict[str, Any], weights: Weights, factor: int = 1) -> None:
        """Add the weights of a checkpoint, of which `state` is the rest; all must be of one kind of model."""
        described = {key: state[key] for key in ("labels", "config")}
        if self.first is None:
            self.first = (path, described)
        else:
            check_same_model(self.first, (path, described))
            check_same_tensors(self.total, weights, path, self.first[0])
        self.factors += factor
        self.train_data.append(state.get("train_data"))
        for name, tensor in weights.items():
            if name in self.total:
                self.total[name].add_(tensor, alpha=factor)
            elif tensor.is_floating_point():
                self.total[name] = tensor.double() * factor

    def result(self, path: Path, state: dict[str, Any]) -> tuple[Weights, dict[str, Any]]:
        """The mean and the rest of the last checkpoint, which also has what has no mean, such as counters."""
        own = state["model"]
        check_same_tensors(self.total, own, path, self.first[0])
        weights = {
            name: (self.total[name] / self.factors).to(tensor.dtype) if name in self.total else tensor
            for name, tensor in own.items()
        }
        # Of models of several training sets no valid split is known to be held out.
        same = all(data == self.train_data[-1] for data in self.train_data)
        return weights, state if same else {**state, "train_data": None}


def mean_of_files(paths: Sequence[Path], kind: str | None) -> Taken:
    """The plain mean of the weights of this kind in all files; of what validation measured for None."""
    mean = WeightedMean()
    measured: dict[Path, str] = {}
    averaged: dict[Path, dict[str, Any]] = {}
    state: dict[str, Any] = {}
    for path in paths:
        state.clear()  # one file is in memory at a time
        state = load_checkpoint(path)
        measured[path] = measured_kind(state)
        if origin := state.get("averaged"):
            averaged[path] = origin
        if kind is None and measured[path] != measured[paths[0]]:
            raise CheckpointError(
                f"validation measured the {KINDS[measured[paths[0]]]} of {paths[0]}, but the "
                f"{KINDS[measured[path]]} of {path}: choose one kind with evaluation.weights (--weights)"
            )
        taken = kind or measured[path]
        own = state["model"] if taken == "model" else kept_average(state, taken, path)["weights"]
        mean.add(path, state, own)
        del own
    weights, state = mean.result(paths[-1], state)
    return Taken(weights, state, taken, measured, averaged)


def measured_kind(state: dict[str, Any]) -> str:
    """Of which weights validation would be at a checkpoint; those of an averaged file are its only ones."""
    kind = state["config"].get("training", {}).get("validate_weights", "model")
    average = state.get("averages", {}).get(kind)
    # As long as an average has not begun, the trained weights are measured.
    begun = average is not None and average["samples"] > 0
    return kind if begun and not state.get("averaged") else "model"


def mean_between(start: Path, end: Path) -> Taken:
    """The mean of all samples that the running average took after one checkpoint, up to another of its run.

    With the averages a and A after n and N samples it is (N A - n a) / (N - n); and the later checkpoint.
    """
    mean = WeightedMean()
    state = load_checkpoint(start)
    known = {key: state.get(key) for key in ("config", "train_data", "mixed_data", "validations")}
    earlier = kept_average(state, "running_average", start, allow_none=True)
    samples, period = earlier["samples"], earlier["period"]
    if samples:
        mean.add(start, state, earlier["weights"], -samples)
    del state, earlier
    state = load_checkpoint(end)
    later = kept_average(state, "running_average", end, allow_none=True)
    if later["period"] != period:
        raise CheckpointError(
            f"{start} and {end} are not of one run: the first took a sample of the weights every "
            f"{period} updates, the second every {later['period']}"
        )
    if later["samples"] <= samples:
        raise CheckpointError(
            f"{end} has {later['samples']} samples of the weights in its running average, and {start}, which "
            f"should be the earlier one, {samples}: choose checkpoints with at least "
            f"{later['period']} updates (training.running_average.period) from the first to the second"
        )
    check_same_run((start, known), (end, state))
    mean.add(end, state, later["weights"], later["samples"])
    return Taken(*mean.result(end, state), "running_average")


def check_same_run(start: tuple[Path, dict[str, Any]], end: tuple[Path, dict[str, Any]]) -> None:
    """Refuse two checkpoints of which the later one was not reached from the earlier one.

    Of old checkpoints, which do not note everything, what both note counts.
    """
    (first_path, one), (path, two) = start, end
    refused = f"{first_path} and {path} are not of one run, so that there is no mean between them: "
    for key in ("train_data", "mixed_data"):
        if one.get(key) and two.get(key) and one[key] != two[key]:
            raise CheckpointError(f"{refused}they were trained on other clips, or other labels of them")
    before, after = one.get("validations"), two.get("validations")
    # Values of another metric, as after a run went on with --allow-changes, cannot be compared.
    metrics = [state["config"].get("training", {}).get("best_metric") for state in (one, two)]
    comparable = before is not None and after is not None and metrics[0] == metrics[1]
    if comparable and after[: len(before)] != before:
        raise CheckpointError(
            f"{refused}the second one's validations do not begin with those of the first (a run that went on "
            "from an earlier checkpoint has other weights behind it)"
        )
    seeds = [state["config"].get("seed") for state in (one, two)]
    # A run may go on with another seed (--allow-changes): then only a common history shows that it is one.
    if seeds[0] != seeds[1] and not (comparable and before):
        raise CheckpointError(f"{refused}the first has seed {seeds[0]}, the second {seeds[1]}")


def kept_average(state: dict[str, Any], kind: str, path: Path, *, allow_none: bool = False) -> dict[str, Any]:
    """An average of the weights that training kept, which has samples unless none are allowed too."""
    average = state.get("averages", {}).get(kind)
    if average is None:
        raise CheckpointError(
            f"{path} holds no {kind} of the weights: training keeps one with training.{kind}"
        )
    if not average["samples"] and not allow_none:
        raise CheckpointError(f"{path}: its {kind} of the weights had not begun: choose a later checkpoint")
    return average


def check_same_tensors(total: Weights, weights: Weights, path: Path, first: Path) -> None:
    """Refuse weights with other names or shapes."""
    names = {name for name, tensor in weights.items() if tensor.is_floating_point()}
    if different := sorted(names ^ total.keys()):
        raise CheckpointError(
            f"{path}: its weights have other names than those of {first}: {different[0]} is in one alone"
        )
    for name, tensor in total.items():
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {tuple(weights[name].shape)}, but "
                f"{tuple(tensor.shape)} in {first}; their mean does not exist"
            )


def check_same_model(first: tuple[Path, dict[str, Any]], other: tuple[Path, dict[str, Any]]) -> None:
    """Refuse models whose weights fit each other but do not mean the same."""
    (first_path, one), (path, two) = first, other
    if one["labels"] != two["labels"]:
        raise CheckpointError(f"{path}: its labels are not those of {first_path}, or in another order")
    for section, free in (("features", FREE_FEATURES), ("encoder", FREE_ENCODER)):
        before, after = one["config"][section], two["config"][section]
        # A key that only one of them has came with a newer version, where it changed nothing by itself.
        for key in sorted(before.keys() & after.keys() - set(free)):
            if before[key] != after[key]:
                raise CheckpointError(
                    f"{path}: {section}.{key} is {after[key]!r}, but {before[key]!r} in {first_path}: the "
                    "mean of their weights would be no model"
                )
