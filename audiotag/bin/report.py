"""Stage 7: write RESULTS.md and its pictures for an experiment, and print the table of results."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from audiotag.commandline import add_config_arguments, config_from_args, make_parser
from audiotag.errors import run_command
from audiotag.evaluation.freshness import leave_out_stale
from audiotag.evaluation.report import check_requirements, find_evaluations, results_table, write_report
from audiotag.logs import set_up_logging

logger = logging.getLogger("audiotag.report")


def main() -> None:
    args = parse_arguments()
    set_up_logging(verbose=args.verbose)
    title = config_from_args(args).title if args.config else None
    evaluations, stale = leave_out_stale(args.exp_dir, find_evaluations(args.exp_dir))
    path = write_report(args.exp_dir, evaluations, title=title, stale=stale)
    logger.info("written: %s", path)
    print(results_table(evaluations).text())
    check_requirements(args.require, evaluations)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("report", __doc__)
    add_config_arguments(parser, required=False)
    parser.add_argument("--exp-dir", type=Path, required=True, help="folder of the run, such as exp/ast_tiny")
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="METRIC>=NUMBER",
        help="fail unless every evaluation meets this, such as mAP>=0.5 (>=, >, <=, <); may be repeated; "
        "f1_*_tuned are asked of those that have them",
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
