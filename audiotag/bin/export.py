"""Export trained weights as a folder that `audiotag.load` reads: safetensors, config and labels.

The `evaluation` section of the config chooses the weights, as for evaluate, and the same options overrule it.
Where these weights were evaluated, the thresholds found there are packed too: those of valid, else of eval.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from audiotag.commandline import add_config_arguments, config_from_args, make_parser
from audiotag.errors import run_command
from audiotag.evaluation.conditions import weights_in_words
from audiotag.export.package import export_package, load_tagger
from audiotag.export.thresholds import find_thresholds
from audiotag.labels import LabelTable
from audiotag.logs import set_up_logging
from audiotag.training.averaging import (
    add_weight_arguments,
    choose_weights,
    warn_of_unmeasured_weights,
    weight_overrides,
)

logger = logging.getLogger("audiotag.export")


def main() -> None:
    args = parse_arguments()
    config = config_from_args(args)
    set_up_logging(verbose=args.verbose)
    chosen = choose_weights(args.exp_dir, config.evaluation)
    warn_of_unmeasured_weights(chosen)
    checkpoint = chosen.checkpoint
    labels = LabelTable.from_rows(checkpoint["labels"])
    found = find_thresholds(args.exp_dir, chosen.origin, labels)
    # What validation measured of other weights than these would be taken for theirs.
    metrics = chosen.validation_metrics
    export_package(
        args.dest,
        weights=chosen.weights,
        config=checkpoint["config"],
        labels=labels,
        info={
            "weights": chosen.name,
            "weights_in_words": weights_in_words(chosen.origin),
            "checkpoints": chosen.files,
            "sha256": chosen.sha256,
            "title": checkpoint["config"]["title"],
            **({"averaged": chosen.averaged} if chosen.averaged else {}),
            **({"last_epoch_metrics": metrics} if metrics else {}),
            **({"thresholds": found.info} if found else {}),
            "coverage": checkpoint.get("coverage", {}),
            "provenance": checkpoint.get("provenance", {}),
        },
        thresholds=found and found.content,
    )
    # What was written is read back, so that a folder that cannot be used is noticed here.
    tagger = load_tagger(args.dest)
    logger.info("exported %s with %d classes to %s", chosen.name, len(tagger.labels), args.dest)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("export", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--exp-dir", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--to", choices=["package"], default="package", help="format to write")
    parser.add_argument("--dest", type=Path, required=True, help="folder to write")
    add_weight_arguments(parser)
    args = parser.parse_args()
    args.overrides += weight_overrides(args)
    return args


if __name__ == "__main__":
    run_command(main)
