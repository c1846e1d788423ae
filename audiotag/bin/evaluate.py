"""Score a trained model on the configured splits: scores.npz, metrics.json, per_class.csv.

The `evaluation` section of the config chooses the weights, the splits and how clips are scored; options
overrule it. Everything about the model comes from its checkpoint. Under torchrun the clips are shared out
over the processes; the results are the same.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from audiotag.commandline import add_config_arguments, config_from_args, make_parser
from audiotag.config import Config
from audiotag.distributed import World, join_world
from audiotag.errors import run_command
from audiotag.evaluation.conditions import folder_suffix
from audiotag.evaluation.results import write_evaluation
from audiotag.export.package import TrainedModel
from audiotag.logs import set_up_logging
from audiotag.matrixproducts import allow_tf32
from audiotag.prediction.model import chosen_model, describe_chosen
from audiotag.prediction.splitscores import check_fold, check_valid_is_held_out, score_split
from audiotag.provenance import collect_provenance
from audiotag.training.averaging import (
    ChosenWeights,
    add_weight_arguments,
    choose_weights,
    warn_of_unmeasured_weights,
    weight_overrides,
)
from audiotag.training.loaders import windowing
from audiotag.writable import check_writable

logger = logging.getLogger("audiotag.evaluate")


def main() -> None:
    args = parse_arguments()
    config = config_from_args(args)
    # As in validation.
    allow_tf32(config.training.tf32)
    with join_world(args.device, timeout_s=config.training.timeout_s) as world:
        set_up_logging(world.rank, args.verbose)
        chosen = choose_weights(args.exp_dir, config.evaluation)
        logger.info("weights: %s (%s)", chosen.name, ", ".join(chosen.files))
        if world.is_main:
            check_writable(args.exp_dir)
            warn_of_unmeasured_weights(chosen)
        model = chosen_model(chosen, args.exp_dir, world.device)
        if not model.tagger.encoder.batch_independent:
            logger.warning(
                "encoder %s: the scores of a clip depend on the clips that share its batch; "
                "compare results of one evaluation.batch_size only",
                chosen.checkpoint["config"]["encoder"]["name"],
            )
        # First valid, if it is among them: the thresholds found on it are used on eval.
        for split in sorted(config.evaluation.splits, key=lambda split: split != "valid"):
            evaluate(split, model, chosen, config, args.data_dir, args.exp_dir, world)


def evaluate(
    split: str,
    model: TrainedModel,
    chosen: ChosenWeights,
    config: Config,
    data_dir: Path,
    exp_dir: Path,
    world: World,
) -> None:
    """Score one split and write its evaluation folder."""
    choice = config.evaluation
    check_fold(chosen.folds, data_dir)
    if split == "valid":
        check_valid_is_held_out(chosen.checkpoint.get("train_data"), model, config, data_dir)
    scored = score_split(split, model, config, data_dir, world)
    if scored is None:
        return
    name = chosen.name + folder_suffix(choice.amp, windowing(choice, model.loss))
    folder = exp_dir / f"eval_{split}_{name}"
    metrics = write_evaluation(
        folder,
        scored.scores,
        scored.labels,
        info={
            "title": config.title,
            "split": split,
            "weights": name,
            **describe_chosen(chosen),
            **scored.facts,
            "provenance": collect_provenance(),
        },
        zero_without_positives=choice.zero_without_positives,
        bootstrap=choice.bootstrap,
        seed=config.seed,
    )
    shown = ", ".join(
        f"{name} {metrics.summary[name]:.4f}" for name in ("mAP", "mAUC") if metrics.summary[name] is not None
    )
    logger.info(
        "%s, %d clips at %.1f clips/s: %s; written to %s",
        split,
        metrics.summary["num_clips"],
        scored.facts["clips_per_s"],
        shown,
        folder,
    )


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("evaluate", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of stages 1-4")
    parser.add_argument("--exp-dir", type=Path, required=True, help="folder of the run, such as exp/ast_tiny")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto for a GPU where there is one")
    parser.add_argument(
        "--split",
        action="append",
        choices=["valid", "eval"],
        help="split to score, not what the config says; may be repeated",
    )
    add_weight_arguments(parser)
    args = parser.parse_args()
    args.overrides += weight_overrides(args)
    if args.split:
        args.overrides.append(f"evaluation.splits=[{', '.join(args.split)}]")
    return args


if __name__ == "__main__":
    run_command(main)
