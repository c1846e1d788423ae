"""Prepare the noise that training mixes in (stage 3), if the config mixes any."""

from __future__ import annotations

import logging

from audiotag.commandline import config_from_args, make_data_parser
from audiotag.errors import run_command
from audiotag.logs import set_up_logging


def main() -> None:
    args = make_data_parser("prepare_noise", __doc__).parse_args()
    set_up_logging(verbose=args.verbose)
    config = config_from_args(args)
    if config.augment.noise is None:
        logging.info("augment.noise is null: there is nothing to do")
        return
    # Not at the top: the import takes longer than having nothing to do.
    from audiotag.corpora.musan import prepare_musan

    prepare_musan(
        args.data_dir,
        dir=config.augment.noise.dir,
        preset=config.features.preset,
        storage=config.features.storage,
        num_jobs=args.nj,
    )


if __name__ == "__main__":
    run_command(main)
