"""Export trained weights as files that others read.

    package      a folder that `audiotag.load` and predict read: safetensors, config and labels; where the
                 weights were evaluated, with the thresholds found there: those of valid, else of eval
    onnx         model.onnx and model.int8.onnx with labels.csv; of a Zipformer, as sherpa-onnx runs them
    torchscript  model.ts for libtorch, with labels.csv
    icefall      pretrained.pt of a Zipformer, with labels.csv
    hf           a folder of an AST that transformers loads: weights, config, feature extractor, model card
    ast          ast_<strides>.pth of an AST for the original code, with labels.csv
    beats        beats.pt of a BEATs for the original code, with labels.csv
    espnet       model.pth, config.yaml and token_list of a BEATs for ESPnet

The `evaluation` section of the config (by default the run's own) chooses the weights, as for evaluate, and
the same options overrule it; or --model names a checkpoint or an exported folder.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from audiotag.commandline import add_config_arguments, make_parser
from audiotag.configfile import load_config
from audiotag.errors import ConfigError, run_command
from audiotag.evaluation.conditions import weights_in_words
from audiotag.export.package import TrainedModel, export_package, load_tagger, read_description
from audiotag.export.thresholds import FoundThresholds, evaluations_of, find_thresholds
from audiotag.logs import set_up_logging
from audiotag.prediction.model import add_model_arguments, chosen_model, open_model, run_config
from audiotag.training.averaging import (
    ChosenWeights,
    choose_weights,
    warn_of_unmeasured_weights,
    weight_overrides,
)

logger = logging.getLogger("audiotag.export")


def main() -> None:
    args = parse_arguments()
    set_up_logging(verbose=args.verbose)
    check_destination(args)
    model, info, thresholds = open_source(args)
    if args.to == "onnx":
        from audiotag.export.onnx import export_onnx

        export_onnx(args.dest, model, info)
    elif args.to == "torchscript":
        from audiotag.export.torchscript import export_torchscript

        export_torchscript(args.dest, model, info)
    elif args.to == "icefall":
        from audiotag.interop.icefall import export_icefall

        export_icefall(args.dest, model)
    elif args.to == "ast":
        from audiotag.interop.ast import export_ast

        export_ast(args.dest, model)
    elif args.to == "beats":
        from audiotag.interop.beats import export_beats

        export_beats(args.dest, model)
    elif args.to == "espnet":
        from audiotag.interop.espnet import export_espnet

        export_espnet(args.dest, model)
    elif args.to == "hf":
        from audiotag.interop.hfexport import export_huggingface

        export_huggingface(args.dest, model, info)
    else:
        config = {**model.config, "loss": {"name": model.loss}}
        weights, labels = model.tagger.state_dict(), model.tagger.labels
        export_package(
            args.dest,
            weights=weights,
            config=config,
            labels=labels,
            info=info,
            thresholds=thresholds and thresholds.content,
        )
        # What was written is read back, so that a folder that cannot be used is noticed here.
        load_tagger(args.dest)
    logger.info("exported %s with %d classes to %s", info["weights"], len(model.tagger.labels), args.dest)


def check_destination(args: argparse.Namespace) -> None:
    """Refuse to write over the model itself, or over files by the same names of another format."""
    if args.model is not None and args.dest.exists() and args.dest.samefile(args.model):
        raise ConfigError(f"--dest {args.dest} is the model itself: name another folder")
    described = args.dest / "config.json"
    if args.to in ("package", "hf") and described.is_file():
        own = b'"audiotag-model"' in described.read_bytes()
        if own != (args.to == "package"):
            raise ConfigError(
                f"--dest {args.dest} holds a model of another format than {args.to}, whose config.json would "
                "be written over: name another folder"
            )


def open_source(args: argparse.Namespace) -> tuple[TrainedModel, dict[str, Any], FoundThresholds | None]:
    """The model to export, what is kept of where it comes from, and thresholds that were found for it."""
    if args.model is not None:
        if args.config or args.overrides:
            raise ConfigError("--model names weights, to which --config and --set have nothing to add")
        return open_model(args), {**packed_info(args.model), "weights": str(args.model)}, None
    overrides = [*args.overrides, *weight_overrides(args)]
    config = load_config(args.config, overrides) if args.config else run_config(args.exp_dir, overrides)
    chosen = choose_weights(args.exp_dir, config.evaluation)
    warn_of_unmeasured_weights(chosen)
    model = chosen_model(chosen, args.exp_dir)
    found = None
    if args.to == "package":
        found = find_thresholds(args.exp_dir, chosen.origin, model.tagger.labels)
    info = describe(chosen, found)
    if args.to == "hf":
        # For the model card; the newest of each split comes first.
        evaluations = reversed(evaluations_of(args.exp_dir, chosen.origin))
        info["evaluations"] = {evaluation.split: evaluation.metrics for evaluation in evaluations}
    return model, info, found


def packed_info(path: Path) -> dict[str, Any]:
    """What an exported folder says of where its weights come from; nothing for a checkpoint."""
    return read_description(path).get("info", {}) if path.is_dir() else {}


def describe(chosen: ChosenWeights, found: FoundThresholds | None) -> dict[str, Any]:
    """Where weights of a run come from."""
    checkpoint = chosen.checkpoint
    # What validation measured of other weights than these would be taken for theirs.
    metrics = chosen.validation_metrics
    return {
        "weights": chosen.name,
        "weights_in_words": weights_in_words(chosen.origin),
        "checkpoints": chosen.files,
        "sha256": chosen.sha256,
        "title": checkpoint["config"]["title"],
        **({"averaged": chosen.averaged} if chosen.averaged else {}),
        **({"last_epoch_metrics": metrics} if metrics else {}),
        **({"thresholds": found.info} if found else {}),
        **({"folds": checkpoint["folds"]} if checkpoint["folds"] else {}),
        "coverage": checkpoint.get("coverage", {}),
        "provenance": checkpoint.get("provenance", {}),
    }


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("export", __doc__)
    add_config_arguments(parser, required=False)
    add_model_arguments(parser)
    parser.add_argument(
        "--to",
        choices=["package", "onnx", "torchscript", "icefall", "hf", "ast", "beats", "espnet"],
        default="package",
        help="format to write",
    )
    parser.add_argument("--dest", type=Path, required=True, help="folder to write")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
