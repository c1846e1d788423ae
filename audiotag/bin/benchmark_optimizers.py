"""Measure one update of the config's optimiser beside one of fused AdamW. Prints a Markdown table."""

from __future__ import annotations

from audiotag.benchmarks.optimizers import add_arguments, run
from audiotag.commandline import make_parser
from audiotag.errors import run_command
from audiotag.logs import set_up_logging


def main() -> None:
    parser = make_parser("benchmark_optimizers", __doc__)
    add_arguments(parser)
    args = parser.parse_args()
    set_up_logging(verbose=args.verbose)
    print(run(args))


if __name__ == "__main__":
    run_command(main)
