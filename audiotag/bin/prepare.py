"""Make lhotse manifests of a corpus: one cut per clip, labels, skipped clips, coverage (stage 1)."""

from __future__ import annotations

from audiotag.commandline import add_array_task, config_from_args, make_data_parser
from audiotag.corpora.audioset import prepare_audioset
from audiotag.corpora.cuts import prepare_cuts
from audiotag.corpora.esc50 import prepare_esc50
from audiotag.corpora.mydata import prepare_mydata
from audiotag.corpora.speechcommands import prepare_speechcommands
from audiotag.errors import run_command
from audiotag.logs import set_up_logging

PREPARE = {
    "audioset": prepare_audioset,
    "esc50": prepare_esc50,
    "speechcommands": prepare_speechcommands,
    "mydata": prepare_mydata,
    "cuts": prepare_cuts,
}


def main() -> None:
    parser = make_data_parser("prepare", __doc__)
    add_array_task(parser)
    args = parser.parse_args()
    set_up_logging(verbose=args.verbose)
    corpus = config_from_args(args).corpus
    PREPARE[corpus.name](args.data_dir / "manifests", corpus, num_jobs=args.nj, task=args.part)


if __name__ == "__main__":
    run_command(main)
