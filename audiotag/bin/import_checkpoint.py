"""Turn a model of another toolkit into an exported folder that `audiotag.load` and predict read.

    python -m audiotag.bin.import_checkpoint --from ast audioset_10_10_0.4593.pth model/ --labels labels.csv
    python -m audiotag.bin.import_checkpoint --from hf MIT/ast-finetuned-audioset-10-10-0.4593 model/

Sizes are read from the weights; what these do not say can be given with `--set`, such as
`encoder.pos_head_dim=8`. An AST becomes one of another length or stride with `--set
features.target_frames=512` or `--set encoder.time_stride=16`: its position embedding is cropped or
interpolated. What does not fit is refused.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from audiotag.commandline import add_overrides, make_parser
from audiotag.errors import ConfigError, run_command
from audiotag.export.package import export_package, load_tagger
from audiotag.interop.formats import FORMATS, read_model
from audiotag.interop.hub import find_model
from audiotag.interop.importing import hints_of, import_model, read_overrides
from audiotag.labels import LabelTable
from audiotag.logs import set_up_logging
from audiotag.provenance import file_digest
from audiotag.training.otherfolds import folds_behind

logger = logging.getLogger("audiotag.import_checkpoint")


def main() -> None:
    args = parse_arguments()
    set_up_logging(verbose=args.verbose)
    if args.weights != "model" and args.toolkit != "icefall":
        raise ConfigError(
            f"--weights {args.weights} is of icefall's checkpoints, not of --from {args.toolkit}"
        )
    labels = LabelTable.read(args.labels) if args.labels else None
    given = read_overrides(args.overrides)
    path = find_model(args.source, "SOURCE", args.toolkit)
    source = read_model(path, args.toolkit, hints_of(given, args.weights))
    model, transfer = import_model(source, labels, given)
    logger.info("%s: %s", args.source, transfer)
    folds = folds_behind(path)
    export_package(
        args.dest,
        weights=model.tagger.state_dict(),
        config={**model.config, "loss": {"name": model.loss}},
        labels=model.tagger.labels,
        info={
            "weights": args.weights,
            "imported_from": args.toolkit,
            "checkpoints": [args.source],
            "sha256": {str(file): file_digest(file) for file in source.files},
            "adapted": transfer.adapted,
            "fresh": transfer.fresh,
            **({"folds": folds} if folds else {}),
        },
    )
    tagger = load_tagger(args.dest)
    logger.info(
        "imported %s: %s parameters, %d classes, to %s",
        args.source,
        f"{sum(parameter.numel() for parameter in tagger.parameters()):,}",
        len(tagger.labels),
        args.dest,
    )


def parse_arguments() -> argparse.Namespace:
    formats = "\n".join(f"    {name:12}{entry.what}" for name, entry in FORMATS.items())
    parser = make_parser("import_checkpoint", f"{__doc__}\nformats:\n{formats}")
    parser.add_argument("source", metavar="SOURCE", help="the file or folder to import; for hf, also a name")
    parser.add_argument("dest", type=Path, metavar="DEST", help="folder to write")
    parser.add_argument(
        "--from", choices=list(FORMATS), required=True, dest="toolkit", help="the format, see above"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="its classes: index,mid,display_name, as AudioSet lists them; a model that names its classes "
        "(hf, beats, espnet) gets their MIDs or names from it; one without head (deit, a pre-trained beats) "
        "gets a fresh head for them",
    )
    parser.add_argument(
        "--weights",
        choices=["model", "model_avg"],
        default="model",
        help="the trained weights or the running average of a training checkpoint of icefall",
    )
    add_overrides(
        parser, "a setting of encoder or features in place of the model's or an inferred one; may be repeated"
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
