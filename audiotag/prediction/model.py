"""The model that a command is to use: a checkpoint, an exported folder, or weights of a run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from audiotag.config import Config
from audiotag.configevaluation import WeightChoice
from audiotag.configfile import load_config
from audiotag.errors import CheckpointError, ConfigError
from audiotag.evaluation.conditions import weights_in_words
from audiotag.export.package import TrainedModel, assemble, load_model
from audiotag.labels import LabelTable
from audiotag.training.averaging import (
    ChosenWeights,
    add_weight_arguments,
    choose_weights,
    weight_overrides,
)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--model`, `--exp-dir` and the options that choose among a run's weights."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--model", type=Path, metavar="PATH", help="a checkpoint (epoch-30.pt) or an exported folder"
    )
    which.add_argument(
        "--exp-dir",
        type=Path,
        metavar="DIR",
        help="folder of a run, such as exp/ast_tiny: the weights that its config.yaml chooses",
    )
    add_weight_arguments(parser)


def open_model(args: argparse.Namespace, device: str = "cpu") -> TrainedModel:
    """The model that the options of `add_model_arguments` name."""
    overrides = weight_overrides(args)
    if args.model is not None:
        if overrides:
            raise ConfigError(
                "--model names one set of weights: options that choose among those of a run go with --exp-dir"
            )
        return load_model(args.model, device)
    config = run_config(args.exp_dir, overrides)
    return chosen_model(choose_weights(args.exp_dir, config.evaluation), args.exp_dir, device)


def choice_of_run(
    exp_dir: Path, own: WeightChoice | None = None, overrides: Sequence[str] = ()
) -> WeightChoice:
    """Which weights of a run are taken: those that its config chooses, unless something else is asked for.

    Args:
        exp_dir: its folder.
        own: a choice in place of the run's, as a whole.
        overrides: of single keys of the run's choice, in the form of `--set evaluation.KEY=VALUE`.
    """
    names = WeightChoice.model_fields
    if own is not None:
        overrides = [f"evaluation.{name}={json.dumps(getattr(own, name))}" for name in names]
    chosen = run_config(exp_dir, list(overrides)).evaluation
    return WeightChoice(**{name: getattr(chosen, name) for name in names})


def run_config(exp_dir: Path, overrides: list[str]) -> Config:
    """What a run was configured as; the defaults where it left no config.yaml."""
    if not exp_dir.is_dir():
        raise CheckpointError(f"{exp_dir} is not a folder of a run; stage 5 makes it (./run.sh --stage 5)")
    path = exp_dir / "config.yaml"
    return load_config(path if path.is_file() else None, overrides)


def chosen_model(chosen: ChosenWeights, exp_dir: Path, device: str | torch.device = "cpu") -> TrainedModel:
    """The model of a checkpoint with the chosen weights."""
    labels = LabelTable.from_rows(chosen.checkpoint["labels"])
    source = exp_dir / chosen.files[-1]
    return assemble(chosen.checkpoint["config"], labels, chosen.weights, (source, source), device)


def describe_chosen(chosen: ChosenWeights) -> dict[str, Any]:
    """What an evaluation keeps of its weights and of their training."""
    return {
        "weights_in_words": weights_in_words(chosen.origin),
        "checkpoints": chosen.files,
        "sha256": chosen.sha256,
        "kind": chosen.kind,
        "between": chosen.between,
        "averaged": chosen.averaged,
        "training": {
            "processes": chosen.checkpoint["position"].get("world_size"),
            "provenance": chosen.checkpoint.get("provenance") or {},
            "init": chosen.checkpoint.get("init"),
        },
        "selected_on": selected_on(chosen),
    }


def selected_on(chosen: ChosenWeights) -> str | None:
    """The split whose metric chose the weights: `eval` where the run's valid was of its clips; None for none.

    It chose the last epoch, too, where it ended training early.
    """
    if not chosen.by_validation and not chosen.by_stopping:
        return None
    valid = chosen.checkpoint.get("coverage", {}).get("valid", {})
    return valid.get("same_as") or valid.get("part_of") or "valid"
