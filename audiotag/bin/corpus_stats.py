"""Measure the features of all splits, count labels, make class-balanced weights (stage 4)."""

from __future__ import annotations

from audiotag.commandline import config_from_args, make_data_parser
from audiotag.corpora.stats import corpus_stats
from audiotag.errors import run_command
from audiotag.logs import set_up_logging


def main() -> None:
    args = make_data_parser("corpus_stats", __doc__).parse_args()
    set_up_logging(verbose=args.verbose)
    features = config_from_args(args).features
    corpus_stats(
        args.data_dir,
        features.stats_name,
        preset=features.preset,
        storage=features.storage,
        target_frames=features.target_frames,
        num_jobs=args.nj,
    )


if __name__ == "__main__":
    run_command(main)
