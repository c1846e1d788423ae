"""Measure the features of all splits, count labels, make class-balanced weights (stage 4).

Mean and deviation are those of all values of the features before their normalisation, clips cut or padded
to features.target_frames and rows of padding included, as an encoder would get them. (Papers often take the
mean over batches in place of that over all values, and some measure with masks and mixup switched on: their
numbers differ a little.) Those of train are printed, and written to normalization.yaml, as a section of a
configuration; features.normalization: corpus takes them without being told. Stage 1 must be done, and stage 2
where features are stored.
"""

from __future__ import annotations

from audiotag.commandline import config_from_args, make_data_parser
from audiotag.corpora.stats import corpus_stats, normalization_path
from audiotag.errors import run_command
from audiotag.logs import set_up_logging


def main() -> None:
    args = make_data_parser("stats", __doc__).parse_args()
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
    print(normalization_path(args.data_dir, features.stats_name).read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    run_command(main)
