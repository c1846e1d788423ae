"""Train a tagger: `python -m audiotag.bin.train`, or the same under torchrun for several processes.

Reads the manifests that stages 1-4 left in the data folder; writes config.yaml, epoch-<n>.pt and
TensorBoard curves into the experiment folder. Run again, it goes on after the newest checkpoint.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from audiotag.commandline import add_config_arguments, config_from_args, make_parser
from audiotag.distributed import join_world
from audiotag.errors import run_command
from audiotag.logs import set_up_logging
from audiotag.training.run import prepare_trainer

logger = logging.getLogger("audiotag.train")


def main() -> None:
    args = parse_arguments()
    config = config_from_args(args)
    with join_world(args.device) as world:
        set_up_logging(world.rank, args.verbose)
        logger.info("process %d of %d on %s", world.rank, world.size, world.device)
        trainer = prepare_trainer(config, args.data_dir, args.exp_dir, world, restart=args.restart)
        trainer.run()
        trainer.writer.close()


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("train", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of stages 1-4")
    parser.add_argument(
        "--exp-dir", type=Path, required=True, help="folder of this run, such as exp/ast_tiny"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto for a GPU where there is one")
    parser.add_argument(
        "--restart",
        action="store_true",
        help="begin anew; what is in the experiment folder is moved to <folder>.old-<n>",
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
