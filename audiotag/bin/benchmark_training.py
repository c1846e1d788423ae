"""Measure what the training loop costs beside the arithmetic: overhead, saving, resuming, validation,
several processes. Needs a recipe's data (stages 1-4). Prints a Markdown table."""

from __future__ import annotations

from audiotag.benchmarks.engine import add_arguments, run
from audiotag.commandline import make_parser
from audiotag.errors import run_command
from audiotag.logs import set_up_logging


def main() -> None:
    parser = make_parser("benchmark_training", __doc__)
    add_arguments(parser)
    args = parser.parse_args()
    set_up_logging(verbose=args.verbose)
    print(run(args))


if __name__ == "__main__":
    run_command(main)
