"""Print how the jobs of stages begin: options of sbatch and lines of shell, from conf/slurm.yaml.

Each line has the name of its stage, a tab, and the text. `./run.sh --launcher slurm` makes scripts of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from audiotag.commandline import make_parser
from audiotag.configslurm import STAGES, Resources, load_slurm_settings, sbatch_options
from audiotag.errors import run_command

# The notice before the time limit may come while lines of `setup` take their time; the driver answers it.
KEEP_NOTICE = "trap 'export AUDIOTAG_NOTICED=yes' USR1"


def main() -> None:
    args = parse_arguments()
    settings = load_slurm_settings(args.settings)
    for stage in args.stages:
        resources = settings.of_stage(stage)
        changes = {}
        if stage == "train" and args.num_nodes is not None:
            changes["nodes"] = args.num_nodes
        # Without GPUs the number is one of processes.
        if args.ngpu is not None and resources.gpus:
            changes["gpus"] = args.ngpu
        for line in head_of_script(resources.model_copy(update=changes)):
            print(f"{stage}\t{line}")


def head_of_script(resources: Resources) -> list[str]:
    """The lines of a job's script in which its resources show."""
    return [
        *(f"#SBATCH {option}" for option in sbatch_options(resources)),
        KEEP_NOTICE,
        *resources.setup,
        f"export AUDIOTAG_RENDEZVOUS_S={resources.rendezvous_s:g}",
    ]


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("slurm", __doc__)
    parser.add_argument(
        "--settings", type=Path, required=True, metavar="FILE", help="such as conf/slurm.yaml"
    )
    parser.add_argument("--num-nodes", type=int, help="nodes of training, in place of the file's")
    parser.add_argument(
        "--ngpu", type=int, help="GPUs of each node, in place of the file's, where it has any"
    )
    parser.add_argument("stages", nargs="+", choices=STAGES, metavar="STAGE", help="names of stages")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
