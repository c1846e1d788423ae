"""Which weights to evaluate, export or average: one checkpoint's, or the mean of several."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from audiotag.commandline import positive
from audiotag.configevaluation import WeightChoice
from audiotag.evaluation.conditions import KINDS, SUFFIXES
from audiotag.provenance import collect_provenance, file_digest
from audiotag.training.otherfolds import Fold, folds_behind_all
from audiotag.training.weightchoice import choose_files, shown_name
from audiotag.training.weightmeans import mean_between, mean_of_files

logger = logging.getLogger(__name__)


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
        by_stopping: whether they are of the end of a run that validation ended early.
        kind: of the weights that were taken from each file.
        measured: of the weights of these files that validation measured; None where that differs, or for a
            mean between two.
        between: whether the files are the ends of a mean over updates.
        averaged: origin of the files of bin/average.py, by file.
    """

    name: str
    weights: dict[str, torch.Tensor]
    checkpoint: dict[str, Any]
    files: list[str]
    sha256: dict[str, str]
    by_validation: bool
    by_stopping: bool
    kind: str
    measured: str | None
    between: bool
    averaged: dict[str, dict[str, Any]]

    @property
    def folds(self) -> list[Fold]:
        """The folds of a cross-validation that they come from."""
        return [Fold(*fold) for fold in self.checkpoint["folds"]]

    @property
    def origin(self) -> dict[str, Any]:
        """Where the weights come from, as averaged files and results keep it."""
        keys = ("name", "files", "sha256", "kind", "measured", "between")
        keys += ("by_validation", "by_stopping", "averaged")
        return {key: getattr(self, key) for key in keys}

    @property
    def validation_metrics(self) -> dict[str, Any]:
        """What validation measured of just these weights; empty where it measured others."""
        alone = len(self.files) == 1 and not self.averaged and self.kind == self.measured
        return self.checkpoint["metrics"] if alone else {}


def choose_weights(exp_dir: Path, choice: WeightChoice) -> ChosenWeights:
    """The weights of a run's checkpoints that are asked for, averaged where several are."""
    chosen = choose_files(exp_dir, choice)
    between = choice.between is not None or choice.use_averaged_model
    taken = mean_between(*chosen.paths) if between else mean_of_files(chosen.paths, choice.weights)
    measured = set(taken.measured.values())
    averaged = {shown_name(path, exp_dir): origin for path, origin in taken.averaged.items()}
    files = {shown_name(path, exp_dir): file_digest(path) for path in chosen.paths}
    heavy = ("model", "averages", "optimizer", "scaler", "loss")
    return ChosenWeights(
        name=chosen.name if between else chosen.name + SUFFIXES[taken.kind],
        weights=taken.weights,
        checkpoint={
            **{key: value for key, value in taken.state.items() if key not in heavy},
            "folds": [list(fold) for fold in folds_behind_all(chosen.paths)],
        },
        files=list(files),
        sha256=files,
        # An averaged file remembers how its own files were chosen.
        by_validation=chosen.by_validation or any(one.get("by_validation") for one in averaged.values()),
        by_stopping=(chosen.at_the_end and stopped_early(taken.state))
        or any(one.get("by_stopping") for one in averaged.values()),
        kind=taken.kind,
        measured=measured.pop() if len(measured) == 1 else None,
        between=between,
        averaged=averaged,
    )


def stopped_early(state: dict[str, Any]) -> bool:
    """Whether a run that ended at this checkpoint ended because nothing got better any more."""
    training = state["config"].get("training", {})
    return training.get("patience") is not None and state["position"]["epoch"] < training["epochs"]


def warn_of_unmeasured_weights(chosen: ChosenWeights) -> None:
    """Say that validation chose the checkpoints by other weights than those that are taken."""
    if chosen.by_validation and not chosen.averaged and chosen.kind != chosen.measured:
        measured = KINDS[chosen.measured] if chosen.measured else "weights of several kinds"
        logger.warning(
            "%s: the %s are taken, but validation, which chose the checkpoints, measured their %s: leave "
            "evaluation.weights (--weights) at null to take those",
            chosen.name,
            KINDS[chosen.kind],
            measured,
        )


def averaged_checkpoint(chosen: ChosenWeights) -> dict[str, Any]:
    """A checkpoint of the chosen weights, to be saved: readable as any other, without what training needs,
    and without what validation measured of other weights."""
    rest = {key: value for key, value in chosen.checkpoint.items() if key not in ("format", "version")}
    return {
        **rest,
        "model": chosen.weights,
        "averages": {},
        "optimizer": {},
        "scaler": {},
        "metrics": {},
        "averaged": {**chosen.origin, "provenance": collect_provenance()},
    }


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
        help="the trained weights, or an average of them that training kept; unless given, here or in the "
        "config, those that validation measured",
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
        given["weights"] = None
    if args.use_averaged_model:
        given |= {"use_averaged_model": True} | dict.fromkeys(("best_k", "checkpoints", "between"))
    if args.avg:
        given["avg"] = args.avg
    if args.weights:
        given["weights"] = args.weights
        given.setdefault("use_averaged_model", False)
    return [f"evaluation.{key}={json.dumps(value)}" for key, value in given.items()]
