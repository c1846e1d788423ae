"""Put the runs of all folds of a cross-validation into one table: each fold, their mean, all clips together.

Reads EXP_DIR/fold1, fold2, ..., which must be one experiment: the same settings, all trained to the end.
Writes RESULTS.md, crossvalidation.json and the pooled evaluations eval_eval_<weights>/ into EXP_DIR. The
driver of a recipe with folds calls it as stage 7.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from audiotag.commandline import make_parser, positive
from audiotag.errors import run_command
from audiotag.evaluation.crossvalidation import write_crossvalidation
from audiotag.logs import set_up_logging
from audiotag.training.foldruns import read_folds
from audiotag.writable import check_writable

logger = logging.getLogger("audiotag.crossvalidate")


def main() -> None:
    args = parse_arguments()
    set_up_logging(verbose=args.verbose)
    check_writable(args.exp_dir)
    table = write_crossvalidation(args.exp_dir, read_folds(args.exp_dir, args.folds))
    logger.info("written: %s", args.exp_dir / "RESULTS.md")
    print(table.text())


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("crossvalidate", __doc__)
    parser.add_argument(
        "--exp-dir", type=Path, required=True, help="folder of the folds' runs, such as exp/ast_base"
    )
    parser.add_argument("--folds", type=positive, default=5, help="number of folds")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
