"""Measure the AST beside that of `transformers`: sizes of four strides, clips/s, memory, share of the peak.

    python -m audiotag.bin.benchmark_ast --config conf/encoders/ast_base.yaml --batch-size 1

Both have the same weights, which their logits must show first. Prints Markdown tables.
"""

from __future__ import annotations

from audiotag.benchmarks.ast import add_arguments, run
from audiotag.commandline import make_parser
from audiotag.errors import run_command
from audiotag.logs import set_up_logging


def main() -> None:
    parser = make_parser("benchmark_ast", __doc__)
    add_arguments(parser)
    args = parser.parse_args()
    set_up_logging(verbose=args.verbose)
    print(run(args))


if __name__ == "__main__":
    run_command(main)
