"""Turn a model of another toolkit into an exported folder that `audiotag.load` and predict read.

    python -m audiotag.bin.import_checkpoint --from icefall pretrained.pt model/ --labels labels.csv

From icefall: Zipformer taggers, exported (`pretrained.pt`) or training checkpoints (`epoch-N.pt`, of which
`--weights model_avg` takes the running average). Sizes are read from the weights; what these do not say can
be given with `--set`, such as `encoder.pos_head_dim=8`. What does not fit is refused.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from audiotag.commandline import add_overrides, make_parser
from audiotag.configfile import override_tree
from audiotag.errors import ConfigError, run_command
from audiotag.export.package import export_package, load_tagger
from audiotag.interop.icefall import import_icefall
from audiotag.labels import LabelTable
from audiotag.logs import set_up_logging
from audiotag.provenance import file_digest

logger = logging.getLogger("audiotag.import_checkpoint")


def main() -> None:
    args = parse_arguments()
    set_up_logging(verbose=args.verbose)
    labels = LabelTable.read(args.labels) if args.labels else None
    settings = encoder_settings(args.overrides)
    model = import_icefall(args.source, kind=args.weights, labels=labels, settings=settings)
    export_package(
        args.dest,
        weights=model.tagger.state_dict(),
        config={**model.config, "loss": {"name": model.loss}},
        labels=model.tagger.labels,
        info={
            "weights": args.weights,
            "imported_from": args.toolkit,
            "checkpoints": [str(args.source)],
            "sha256": {str(args.source): file_digest(args.source)},
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


def encoder_settings(overrides: list[str]) -> dict[str, Any]:
    """The settings of `--set encoder.<name>=<value>`."""
    settings: dict[str, Any] = {}
    for override in overrides:
        tree = override_tree(override)
        if list(tree) != ["encoder"] or not isinstance(tree["encoder"], dict):
            raise ConfigError(f"--set {override}: only settings of the encoder can be given here")
        settings.update(tree["encoder"])
    return settings


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("import_checkpoint", __doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the file to import")
    parser.add_argument("dest", type=Path, metavar="DEST", help="folder to write")
    parser.add_argument(
        "--from", choices=["icefall"], required=True, dest="toolkit", help="the toolkit that wrote the file"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="its classes: index,mid,display_name, as AudioSet lists them",
    )
    parser.add_argument(
        "--weights",
        choices=["model", "model_avg"],
        default="model",
        help="the trained weights or the running average of a training checkpoint",
    )
    add_overrides(parser, "a setting of the encoder in place of an inferred one; may be repeated")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
