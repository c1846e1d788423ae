"""Make lhotse manifests of a corpus: one cut per clip, labels, skipped clips, coverage (stage 1)."""

from __future__ import annotations

from audiotag.commandline import config_from_args, make_data_parser
from audiotag.corpora.audioset import prepare_audioset
from audiotag.errors import run_command
from audiotag.logs import set_up_logging


def main() -> None:
    args = make_data_parser("prepare", __doc__).parse_args()
    set_up_logging(verbose=args.verbose)
    config = config_from_args(args)
    prepare_audioset(
        args.data_dir / "manifests", num_jobs=args.nj, **config.corpus.model_dump(exclude={"name"})
    )


if __name__ == "__main__":
    run_command(main)
