"""Train a tagger: `python -m audiotag.bin.train`, or the same under torchrun for several processes.

Reads the manifests that stages 1-4 left in the data folder; writes config.yaml, epoch-<n>.pt, step-<n>.pt and
TensorBoard curves into the experiment folder. Run again, it goes on after the newest checkpoint. SIGTERM,
SIGUSR1 and Ctrl-C let it finish its update, save, leave with exit code 75; a second Ctrl-C ends it at once.
"""

from __future__ import annotations

import argparse
import logging
from contextlib import nullcontext
from pathlib import Path

from audiotag.commandline import add_config_arguments, config_from_args, make_parser
from audiotag.distributed import choose_device, join_world
from audiotag.errors import ConfigError, run_command
from audiotag.logs import set_up_logging
from audiotag.restarts import restarts_where_they_help
from audiotag.training.divergence import replay
from audiotag.training.run import StartOptions, prepare_trainer
from audiotag.training.runlock import lock_run
from audiotag.training.signals import StopRequest

logger = logging.getLogger("audiotag.train")


def main() -> None:
    with restarts_where_they_help():
        train(parse_arguments())


def train(args: argparse.Namespace) -> None:
    if args.replay is not None:
        set_up_logging(verbose=args.verbose)
        found = replay(args.replay, choose_device(args.device))
        print(found or "all numbers are finite this time")
        return
    config = config_from_args(args)
    options = StartOptions(args.restart, args.resume, args.allow_changes, args.profile)
    with StopRequest() as stop, join_world(args.device, timeout_s=config.training.timeout_s) as world:
        set_up_logging(world.rank, args.verbose)
        logger.info("process %d of %d on %s", world.rank, world.size, world.device)
        with lock_run(args.exp_dir) if world.is_main else nullcontext():
            trainer = prepare_trainer(config, args.data_dir, args.exp_dir, world, options, stop)
            try:
                trainer.run()
            finally:
                trainer.log.close()


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("train", __doc__)
    add_config_arguments(parser, required=False)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of stages 1-4")
    parser.add_argument("--exp-dir", type=Path, help="folder of this run, such as exp/ast_tiny")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto for a GPU where there is one")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--restart",
        action="store_true",
        help="begin anew; what is in the experiment folder is moved to <folder>.old-<n>",
    )
    begin.add_argument(
        "--resume",
        default="auto",
        metavar="auto|FILE",
        help="go on from the folder's newest readable checkpoint, or from this file; later ones are then "
        "moved to superseded-<n>",
    )
    parser.add_argument(
        "--allow-changes",
        action="store_true",
        help="go on from a checkpoint although the configuration has changed since; the changes are logged",
    )
    parser.add_argument(
        "--profile",
        metavar="FIRST:LAST",
        help="write a torch profiler trace of these updates into the experiment folder's profile/",
    )
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="FILE",
        help="only compute the update of a divergence-*.pt again and say where its numbers are not finite",
    )
    args = parser.parse_args()
    if args.replay is None and not (args.config and args.exp_dir):
        raise ConfigError("--config and --exp-dir are needed (or --replay)")
    return args


if __name__ == "__main__":
    run_command(main)
