"""Generate the `mini` corpus in AudioSet's own layout (stage 0 of egs/mini)."""

from __future__ import annotations

from pathlib import Path

from audiotag.commandline import make_parser
from audiotag.corpora.synthetic import synthesize
from audiotag.errors import run_command
from audiotag.logs import set_up_logging


def main() -> None:
    parser = make_parser("synthesize", __doc__)
    parser.add_argument("--dest", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--seed", type=int, default=0, help="every clip derives from it; at least 0")
    parser.add_argument("--train-clips", type=int, default=400, help="clips to train on")
    parser.add_argument("--eval-clips", type=int, default=120, help="clips to evaluate on")
    args = parser.parse_args()
    set_up_logging(verbose=args.verbose)
    synthesize(args.dest, seed=args.seed, train_clips=args.train_clips, eval_clips=args.eval_clips)


if __name__ == "__main__":
    run_command(main)
