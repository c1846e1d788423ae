"""Combine the scores of several models: the mean of their probabilities, alike or weighed.

    python -m audiotag.bin.ensemble exp/a/eval_eval_epoch5 exp/b/scores.npz --dest exp/both
    python -m audiotag.bin.ensemble exp/a exp/b/epoch-5.pt models/ast --dest exp/three --member-weights fitted
    python -m audiotag.bin.ensemble --config conf/ensemble_ast_s.yaml
    python -m audiotag.bin.ensemble --exp-dir exp/a --epochs 1-25

Members are evaluation folders or score files, and models of any encoder: folders of runs, checkpoints,
exported or imported folders. Models are scored on the prepared data first, under torchrun by all processes;
their scores are kept in the ensemble's folder, so that a second call is quick. Clips are matched by id and
classes by MID. The result is an evaluation folder, DEST/eval_<split>_<name>, which compare and report read
like any other, with the table of the members in members.md.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from audiotag.commandline import add_overrides, make_parser
from audiotag.configensemble import Ensemble
from audiotag.configevaluation import Scoring
from audiotag.configfile import load_config
from audiotag.configtable import reference_table
from audiotag.distributed import join_world
from audiotag.errors import ConfigError, run_command
from audiotag.logs import set_up_logging
from audiotag.matrixproducts import allow_tf32
from audiotag.prediction.ensembling import combine_split, find_scores
from audiotag.prediction.members import find_members
from audiotag.prediction.model import run_config
from audiotag.training.averaging import add_weight_arguments, weight_overrides
from audiotag.writable import check_writable


def main() -> None:
    args = parse_arguments()
    if args.reference:
        print(reference_table(Ensemble))
        return
    ensemble = ensemble_from_args(args)
    dest = destination(args)
    allow_tf32(ensemble.tf32)
    with join_world(args.device) as world:
        set_up_logging(world.rank, args.verbose)
        if world.is_main:
            check_writable(dest)  # before hours of scoring
        sources = find_members(ensemble, weight_overrides(args))
        places = find_scores(ensemble, sources, args.data_dir, dest, world)
        if world.is_main:
            # First valid, if it is among them: the thresholds found on it are used on eval.
            for split in sorted(ensemble.splits, key=lambda split: split != "valid"):
                print(combine_split(split, ensemble, sources, places, dest, args.epochs))


def ensemble_from_args(args: argparse.Namespace) -> Ensemble:
    """The configuration that a file, members on the command line, or epochs of a run ask for."""
    overrides: dict[str, Any] = {}
    if args.members:
        overrides["members"] = args.members
    elif args.exp_dir is not None:
        first, last = args.epochs
        chosen = {} if args.weights is None else {"weights": args.weights}
        overrides["members"] = [
            {"path": str(args.exp_dir), "name": f"epoch {epoch}", "epoch": epoch, **chosen}
            for epoch in range(first, last + 1)
        ]
        overrides.update(settings_of_run(args.exp_dir))
    if args.split:
        overrides["splits"] = args.split
    for key in ("combine", "member_weights", "fit"):
        if getattr(args, key) is not None:
            overrides[key] = getattr(args, key)
    if args.common:
        overrides["common"] = True
    given = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    return load_config(args.config, given + args.overrides, Ensemble)


def settings_of_run(exp_dir: Path) -> dict[str, Any]:
    """How a run's own configuration scores its epochs."""
    config = run_config(exp_dir, [])
    return {
        "title": config.title,
        "seed": config.seed,
        "storage": config.features.storage,
        "num_workers": config.data.num_workers,
        "tf32": config.training.tf32,
        "evaluation": config.evaluation.model_dump(mode="json", include=set(Scoring.model_fields)),
    }


def destination(args: argparse.Namespace) -> Path:
    """The ensemble's folder."""
    if args.dest is not None:
        return args.dest
    if args.exp_dir is not None:
        return args.exp_dir / "epochs"
    if args.config is not None:
        return Path("exp") / Path(args.config).stem
    raise ConfigError("name the folder of the ensemble with --dest, such as --dest exp/ensemble")


def epoch_range(text: str) -> tuple[int, int]:
    """`1-25` as its ends."""
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected FIRST-LAST, such as 1-25, found {text}")
    return int(match[1]), int(match[2])


def member_weights(text: str) -> str | list[float]:
    """`uniform`, `fitted`, or numbers with commas between them."""
    if text in ("uniform", "fitted"):
        return text
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected uniform, fitted, or numbers such as 0.5,0.3,0.2, found {text}"
        ) from None


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("ensemble", __doc__)
    parser.add_argument("members", nargs="*", metavar="MEMBER", help="scores or models, two or more")
    parser.add_argument("--config", metavar="FILE", help="an ensemble's YAML file, in place of members here")
    add_overrides(parser, "override one key of the ensemble, such as evaluation.amp=bf16; may be repeated")
    parser.add_argument("--exp-dir", type=Path, metavar="DIR", help="a run, whose --epochs are the members")
    parser.add_argument(
        "--epochs",
        type=epoch_range,
        metavar="FIRST-LAST",
        help="of --exp-dir; the table shows each and all so far",
    )
    parser.add_argument(
        "--dest",
        type=Path,
        metavar="DIR",
        help="folder of the ensemble (default: exp/<name of the YAML file>, or <exp-dir>/epochs)",
    )
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="folder of stages 1-4, for models"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto for a GPU where there is one")
    parser.add_argument(
        "--split", action="append", choices=["valid", "eval"], help="sets splits; may be repeated"
    )
    parser.add_argument("--combine", choices=["probabilities", "logits"], help="what the mean is taken of")
    parser.add_argument(
        "--member-weights",
        type=member_weights,
        metavar="W",
        help="uniform, fitted (on valid), or 0.5,0.3,0.2",
    )
    parser.add_argument("--fit", choices=["loss", "mAP"], help="what fitted weights make best")
    parser.add_argument("--common", action="store_true", help="combine the clips and classes that all have")
    parser.add_argument(
        "--reference", action="store_true", help="print a Markdown table of all keys of an ensemble's YAML"
    )
    add_weight_arguments(parser)
    args = parser.parse_args()
    if args.reference:
        return args
    if (args.exp_dir is None) != (args.epochs is None):
        parser.error("--exp-dir and --epochs go together; a run as a member is named without an option")
    if sum(map(bool, (args.members, args.config, args.exp_dir))) != 1:
        parser.error("name members, or an ensemble's --config, or a run's --exp-dir and --epochs")
    if args.config and weight_overrides(args):
        parser.error("an ensemble's --config chooses the weights of its runs itself")
    choosing = ("epoch", "best", "best_k", "checkpoints", "between", "avg", "use_averaged_model")
    if args.epochs and any(getattr(args, name) for name in choosing):
        parser.error("--epochs chooses the checkpoints: of the options for that only --weights goes with it")
    return args


if __name__ == "__main__":
    run_command(main)
