"""Draw curves of several runs over each other, from what they wrote for TensorBoard.

Such as: python -m audiotag.bin.plot exp/ast_tiny exp/ast_small --tags train/loss 'valid/*' --out curves.png
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from audiotag.commandline import make_parser
from audiotag.errors import ConfigError, run_command
from audiotag.logs import set_up_logging
from audiotag.plotting.overlay import DEFAULT_TAGS, SUFFIXES, choose_tags, plot_runs, write_csv
from audiotag.plotting.runs import AXES, read_runs

logger = logging.getLogger("audiotag.plot")


def main() -> None:
    args = parse_arguments()
    set_up_logging(verbose=args.verbose)
    out = args.out or (None if args.csv else Path("curves.png"))
    if out is not None and out.suffix not in SUFFIXES:
        raise ConfigError(f"--out {out}: expected a name that ends in {', '.join(SUFFIXES)}")
    runs = read_runs(args.runs)
    tags = choose_tags(runs, args.tags)
    if out is not None:
        plot_runs(runs, tags, out, axis=args.x, smooth=args.smooth, log_scale=args.log)
        logger.info("written: %s", out)
    if args.csv is not None:
        write_csv(runs, tags, args.csv)
        logger.info("written: %s", args.csv)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("plot", __doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run, such as exp/ast_tiny, or NAME=FOLDER with the name for the legend",
    )
    parser.add_argument(
        "--tags",
        nargs="+",
        metavar="TAG",
        help=f"curves to draw, * stands for anything (default: {' '.join(DEFAULT_TAGS)})",
    )
    parser.add_argument("--x", choices=AXES, default="step", help="what the curves are drawn over")
    parser.add_argument(
        "--smooth",
        type=smoothing,
        default=0.0,
        metavar="SHARE",
        help="smooth by an exponential mean that keeps this much of itself at each point, such as 0.9",
    )
    parser.add_argument("--log", action="store_true", help="logarithmic values")
    parser.add_argument(
        "--out",
        type=Path,
        help="picture to write, .png, .svg or .pdf (default: curves.png, or none with --csv)",
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="also write the points, not smoothed, as CSV"
    )
    return parser.parse_args()


def smoothing(text: str) -> float:
    """A number from 0 up to, but not including, 1."""
    share = float(text)
    if not 0.0 <= share < 1.0:
        raise argparse.ArgumentTypeError(f"expected a number from 0 up to, not including, 1, found {text}")
    return share


if __name__ == "__main__":
    run_command(main)
