"""Have the teachers of distillation hear every training clip once, and store their scores.

Training with `distillation.mode: stored` does this at its start where it has not been done: this command does
it beforehand, on other machines perhaps. Under torchrun the clips are shared out over the processes; stopped
or killed, it goes on behind the blocks that are finished when it is run again. The scores lie in
<data-dir>/teacher/, in a folder of their own for each set of teachers and clips.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from audiotag.commandline import add_config_arguments, config_from_args, make_parser
from audiotag.data.splits import open_split, read_labels
from audiotag.distillation.hearing import stored_targets
from audiotag.distillation.teachers import open_teachers
from audiotag.distributed import join_world
from audiotag.errors import ConfigError, run_command
from audiotag.logs import set_up_logging
from audiotag.matrixproducts import allow_tf32
from audiotag.training.loaders import training_clips
from audiotag.training.otherfolds import fold_here
from audiotag.training.signals import StopRequest


def main() -> None:
    args = parse_arguments()
    config = config_from_args(args)
    if config.distillation is None or config.distillation.mode != "stored":
        raise ConfigError(f"{args.config}: only distillation.mode stored needs stored scores")
    allow_tf32(config.training.tf32)
    with StopRequest() as stop, join_world(args.device, timeout_s=config.training.timeout_s) as world:
        set_up_logging(world.rank, args.verbose)
        labels = read_labels(args.data_dir)
        features = config.features
        manifest = open_split(args.data_dir, "train", preset=features.preset, storage=features.storage)
        clips = training_clips(config, manifest, args.data_dir, labels)
        teachers = open_teachers(config, labels, world, fold_here(config, args.data_dir))
        stored_targets(config, clips, args.data_dir, labels, teachers, world, stop)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("teacher_scores", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of stages 1-4")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto for a GPU where there is one")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
