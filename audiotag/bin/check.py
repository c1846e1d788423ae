"""Look at all that a run needs before it begins: `python -m audiotag.bin.check --config FILE --exp-dir DIR`.

Versions, GPUs, shared memory and limits of this machine, models to start and learn from, the corpus and what
is mixed into it (a sample is read), write permission and lock of the folders, disk space for all that the
stages have yet to write. Under torchrun, or with RANK and WORLD_SIZE of another launcher, all processes add
up a tensor, and one that is missing is named. Nothing is changed, but that models of the Hugging Face hub
are fetched into its cache. The exit code is 0, or that of the first failure: 2 configuration, 3 data,
5 processes, 6 disk.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from audiotag.checks.finding import exit_code, screen
from audiotag.checks.preflight import preflight
from audiotag.commandline import add_config_arguments, config_from_args, make_parser, positive
from audiotag.errors import run_command
from audiotag.logs import set_up_logging


def main() -> None:
    args = parse_arguments()
    set_up_logging(rank=1, verbose=args.verbose)  # warnings alone: the screen says the rest
    findings = preflight(
        config_from_args(args),
        args.data_dir,
        args.exp_dir,
        device=args.device,
        timeout_s=args.timeout,
        num_clips=args.clips,
    )
    if findings is None:
        return
    print(screen(findings), flush=True)
    sys.exit(exit_code(findings))


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("check", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of stages 1-4")
    parser.add_argument("--exp-dir", type=Path, required=True, help="folder of the run, such as exp/ast_tiny")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto for a GPU where there is one")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="seconds to wait for the others"
    )
    parser.add_argument("--clips", type=positive, default=20, help="clips of each split to read")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
