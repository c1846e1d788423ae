"""Average checkpoints of a run into one more file, averaged-<name>.pt, that evaluate, export and
`audiotag.load` read as any other.

The `evaluation` section of the config chooses the weights, as for evaluate, and the same options overrule
it: the mean of the last epochs, of the best checkpoints, of named ones, of all updates between two, and of
the averages that training kept.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from audiotag.commandline import add_config_arguments, config_from_args, make_parser
from audiotag.errors import ConfigError, run_command
from audiotag.logs import set_up_logging
from audiotag.training.averaging import (
    add_weight_arguments,
    averaged_checkpoint,
    choose_weights,
    warn_of_unmeasured_weights,
    weight_overrides,
)
from audiotag.training.checkpoint import EPOCH_NAME, STEP_NAME, save_checkpoint
from audiotag.training.weightchoice import AVERAGED_PREFIX

logger = logging.getLogger("audiotag.average")


def main() -> None:
    args = parse_arguments()
    config = config_from_args(args)
    set_up_logging(verbose=args.verbose)
    chosen = choose_weights(args.exp_dir, config.evaluation)
    warn_of_unmeasured_weights(chosen)
    path = args.dest or args.exp_dir / f"{AVERAGED_PREFIX}{chosen.name}.pt"
    save_checkpoint(path, averaged_checkpoint(chosen))
    logger.info("wrote %s: %s of %s", path, chosen.name, ", ".join(chosen.files))


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("average", __doc__)
    add_config_arguments(parser, required=False)
    parser.add_argument("--exp-dir", type=Path, required=True, help="folder of the run, such as exp/ast_tiny")
    parser.add_argument(
        "--dest", type=Path, metavar="FILE", help="file to write, in place of averaged-<name>.pt"
    )
    add_weight_arguments(parser)
    args = parser.parse_args()
    if args.dest and (EPOCH_NAME.fullmatch(args.dest.name) or STEP_NAME.fullmatch(args.dest.name)):
        raise ConfigError(
            f"--dest {args.dest}: a run would go on from a file of this name; choose another one"
        )
    # The run knows its configuration.
    if args.config is None:
        args.config = args.exp_dir / "config.yaml"
    args.overrides += weight_overrides(args)
    return args


if __name__ == "__main__":
    run_command(main)
