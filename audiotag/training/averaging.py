"""Which weights to evaluate, export or average: one checkpoint's, or the mean of several."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from audiotag.commandline import positive
from audiotag.configevaluation import WeightChoice
from audiotag.provenance import collect_provenance
from audiotag.training.weightchoice import choose_files, shown_name
from audiotag.training.weightmeans import mean_between, mean_of_files

CHUNK = 2**20


@dataclass(frozen=True)
class ChosenWeights:
    """Weights and where they come from.

    Args:
        name: short, and good for names of folders: epoch5-avg3, best-k3-ema.
        weights: a whole state dict of the tagger.
        checkpoint: the rest of the last file, without its weights and the state of the optimiser.
        files: names in the experiment folder, or paths of others; the checkpoint is of the last.
        sha256: digest of each of the files.
        by_validation: whether a validation metric chose the files.
    """

    name: str
    weights: dict[str, torch.Tensor]
    checkpoint: dict[str, Any]
    files: list[str]
    sha256: dict[str, str]
    by_validation: bool


def choose_weights(exp_dir: Path, choice: WeightChoice) -> ChosenWeights:
    """The weights of a run's checkpoints that are asked for, averaged where several are."""
    chosen = choose_files(exp_dir, choice)
    if choice.between or choice.use_averaged_model:
        weights, state = mean_between(*chosen.paths)
    else:
        weights, state = mean_of_files(chosen.paths, choice.weights)
    files = {shown_name(path, exp_dir): digest(path) for path in chosen.paths}
    heavy = ("model", "averages", "optimizer", "scaler")
    return ChosenWeights(
        name=chosen.name,
        weights=weights,
        checkpoint={key: value for key, value in state.items() if key not in heavy},
        files=list(files),
        sha256=files,
        # An averaged file remembers how its own files were chosen.
        by_validation=chosen.by_validation or state.get("averaged", {}).get("by_validation", False),
    )


def averaged_checkpoint(chosen: ChosenWeights) -> dict[str, Any]:
    """A checkpoint of the chosen weights, to be saved: readable as any other, without what training needs."""
    rest = {key: value for key, value in chosen.checkpoint.items() if key not in ("format", "version")}
    return {
        **rest,
        "model": chosen.weights,
        "averages": {},
        "optimizer": {},
        "scaler": {},
        "averaged": {
            "name": chosen.name,
            "files": chosen.files,
            "sha256": chosen.sha256,
            "by_validation": chosen.by_validation,
            "provenance": collect_provenance(),
        },
    }


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    value = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value.update(chunk)
    return value.hexdigest()


def add_weight_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that overrule which weights the `evaluation` section chooses."""
    group = parser.add_argument_group("which weights", "in place of those that the config chooses")
    which = group.add_mutually_exclusive_group()
    which.add_argument("--epoch", type=positive, metavar="N", help="of this epoch")
    which.add_argument("--best", action="store_true", help="of the best checkpoint by the validation metric")
    which.add_argument(
        "--best-k", type=positive, metavar="K", help="the mean of the K best by the validation metric"
    )
    which.add_argument(
        "--checkpoints",
        nargs="+",
        metavar="FILE",
        help="the mean of these, by name in the run's folder or path",
    )
    which.add_argument(
        "--between",
        nargs=2,
        metavar=("START", "END"),
        help="the mean over all updates between two checkpoints, from their running averages",
    )
    group.add_argument(
        "--avg", type=positive, metavar="N", help="the mean of N epochs that end at the chosen one"
    )
    group.add_argument(
        "--use-averaged-model",
        action="store_true",
        help="with --avg N: the mean over all updates of these epochs, from running averages, in place of "
        "that of their checkpoints",
    )
    group.add_argument(
        "--weights",
        choices=["model", "ema", "running_average", "swa"],
        help="the trained weights, or an average of them that training kept",
    )


def weight_overrides(args: argparse.Namespace) -> list[str]:
    """What the options of `add_weight_arguments` overrule, in the form of `--set`.

    Choices of the config that exclude an option are taken back with it.
    """
    given: dict[str, Any] = {}
    none = {"best": False, "epoch": None, "best_k": None, "checkpoints": None, "between": None}
    if args.epoch or args.best:
        given = {**none, "epoch": args.epoch, "best": args.best}
    elif args.best_k or args.checkpoints or args.between:
        several = {"best_k": args.best_k, "checkpoints": args.checkpoints, "between": args.between}
        given = {**none, **several, "avg": 1, "use_averaged_model": False}
    elif args.avg:
        given = dict.fromkeys(("best_k", "checkpoints", "between"))
    if args.between or args.use_averaged_model:
        given["weights"] = "model"
    if args.use_averaged_model:
        given |= {"use_averaged_model": True} | dict.fromkeys(("best_k", "checkpoints", "between"))
    if args.avg:
        given["avg"] = args.avg
    if args.weights:
        given["weights"] = args.weights
        given.setdefault("use_averaged_model", False)
    return [f"evaluation.{key}={json.dumps(value)}" for key, value in given.items()]
