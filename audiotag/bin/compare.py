"""Compare score files of the same clips: differences, whether chance explains them, wins by class.

Takes evaluation folders (exp/TAG/eval_...) or score files (.npz). All others are compared with the first,
by a bootstrap over the clips that draws the same clips for every system.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from audiotag.atomic import atomic_write
from audiotag.commandline import make_parser, positive
from audiotag.errors import ConfigError, run_command
from audiotag.evaluation.comparison import (
    agreed_zero_without_positives,
    align,
    compare,
    read_system,
)
from audiotag.evaluation.comparisontext import describe
from audiotag.logs import set_up_logging

logger = logging.getLogger("audiotag.compare")


def main() -> None:
    args = parse_arguments()
    set_up_logging(verbose=args.verbose)
    if len(args.scores) < 2:
        raise ConfigError("compare needs two or more evaluation folders or score files, found one")
    systems = [read_system(path) for path in args.scores]
    zero = args.zero_without_positives
    if zero is None:
        zero = agreed_zero_without_positives(systems)
    aligned = align(systems, common=args.common)
    comparisons = compare(aligned, args.bootstrap, seed=args.seed, zero_without_positives=zero)
    text = describe(aligned, comparisons, args.bootstrap, zero_without_positives=zero)
    print(text, end="")
    if args.output:
        with atomic_write(args.output) as file:
            file.write(text)
        logger.info("written: %s", args.output)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("compare", __doc__)
    parser.add_argument(
        "scores", nargs="+", type=Path, metavar="SCORES", help="evaluation folders or score files"
    )
    parser.add_argument(
        "--common",
        action="store_true",
        help="compare the clips and classes that all have, not only equal sets",
    )
    parser.add_argument(
        "--bootstrap", type=positive, default=1000, metavar="N", help="resamplings of the clips"
    )
    parser.add_argument("--seed", type=int, default=0, help="what the resamplings derive from")
    parser.add_argument(
        "--zero-without-positives",
        action=argparse.BooleanOptionalAction,
        help="count classes without positives as AP 0 in mAP, or leave them out; unless given, as the "
        "evaluation folders do",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the tables to this file")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
