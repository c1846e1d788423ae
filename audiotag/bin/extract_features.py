"""Store the log-mel features of all splits (stage 2), unless they are computed on the fly."""

from __future__ import annotations

import logging

from audiotag.commandline import add_array_task, config_from_args, make_data_parser
from audiotag.errors import run_command
from audiotag.logs import set_up_logging


def main() -> None:
    parser = make_data_parser("extract_features", __doc__)
    add_array_task(parser)
    args = parser.parse_args()
    set_up_logging(verbose=args.verbose)
    config = config_from_args(args)
    if config.features.storage == "on_the_fly":
        logging.info("features.storage is on_the_fly: there is nothing to do")
        return
    # Not at the top: the import takes longer than having nothing to do.
    from audiotag.corpora.features import extract_splits, take_over_splits

    if getattr(config.corpus, "stored_features", "ignore") == "use":
        if args.part is None:  # there is nothing to share out
            take_over_splits(args.data_dir, preset=config.features.preset)
        return
    extract_splits(args.data_dir, preset=config.features.preset, num_jobs=args.nj, task=args.part)


if __name__ == "__main__":
    run_command(main)
