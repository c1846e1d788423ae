"""Measure how data is fed: the index and the batch plan on a generated manifest, or the loader.

Prints Markdown tables. `benchmark_data PART --help` lists the options of a part.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from audiotag.commandline import HelpFormatter, make_parser
from audiotag.errors import run_command
from audiotag.logs import set_up_logging

PARTS = {
    "plan": "index and batch plan of a generated manifest: time, memory, resuming",
    "loader": "clips/s of the loader, beside lhotse's own",
}


def main() -> None:
    args = parse_arguments()
    set_up_logging(verbose=args.verbose)
    print(library(args.part).run(args))


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("benchmark_data", __doc__)
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART", help="what is measured:")
    for name, text in PARTS.items():
        part = parts.add_parser(name, help=text, description=text, formatter_class=HelpFormatter)
        part.add_argument(
            "--verbose",
            action="store_true",
            default=argparse.SUPPRESS,
            help="log more, and show the traceback of an error",
        )
        # What a part needs is imported only when it is asked for.
        if name in sys.argv[1:]:
            library(name).add_arguments(part)
    return parser.parse_args()


def library(part: str):
    """The module of a part."""
    return importlib.import_module(f"audiotag.benchmarks.{part}")


if __name__ == "__main__":
    run_command(main)
