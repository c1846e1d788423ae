"""Score a trained model on the configured splits: scores.npz, metrics.json, per_class.csv.

The `evaluation` section of the config chooses the weights (last, best or a given epoch, or a mean of
several) and the splits; --epoch, --avg, --best and --split overrule it. Everything about the model comes
from its checkpoint.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from audiotag.commandline import add_config_arguments, config_from_args, make_parser
from audiotag.config import Config
from audiotag.data.normalization import warn_of_foreign_normalization
from audiotag.data.splits import open_split, read_coverage, read_labels
from audiotag.distributed import World, join_world
from audiotag.errors import CheckpointError, DataError, run_command
from audiotag.evaluation.results import write_evaluation
from audiotag.evaluation.scoring import gather_scores, score_batches
from audiotag.labels import LabelTable
from audiotag.logs import progress, set_up_logging
from audiotag.provenance import collect_provenance
from audiotag.tagger import Tagger, build_tagger
from audiotag.training.averaging import ChosenWeights, choose_weights
from audiotag.training.checkpoint import load_weights
from audiotag.training.loaders import evaluation_loader
from audiotag.training.resume import fingerprint

logger = logging.getLogger("audiotag.evaluate")


def main() -> None:
    args = parse_arguments()
    config = config_from_args(args)
    choice = config.evaluation
    with join_world(args.device) as world:
        set_up_logging(world.rank, args.verbose)
        chosen = choose_weights(args.exp_dir, best=choice.best, epoch=choice.epoch, avg=choice.avg)
        logger.info("weights: %s (%s)", chosen.name, ", ".join(chosen.files))
        trained = chosen.checkpoint["config"]
        tagger = build_tagger(
            trained["features"], trained["encoder"], LabelTable.from_rows(chosen.checkpoint["labels"])
        )
        load_weights(tagger, chosen.weights, args.exp_dir / chosen.files[-1])
        tagger.to(world.device)
        for split in choice.splits:
            evaluate(split, tagger, chosen, config, args.data_dir, args.exp_dir, world)


def evaluate(
    split: str,
    tagger: Tagger,
    chosen: ChosenWeights,
    config: Config,
    data_dir: Path,
    exp_dir: Path,
    world: World,
) -> None:
    """Score one split and write its evaluation folder."""
    # The data come as the model knows them, stored or computed as the configuration says.
    known = {key: chosen.checkpoint["config"]["features"][key] for key in ("preset", "target_frames")}
    features = config.features.model_copy(update=known)
    where = {"preset": features.preset, "storage": features.storage}
    labels = read_labels(data_dir)
    columns = columns_by_mid(labels, tagger.labels)
    manifest = open_split(data_dir, split, **where)
    coverage = read_coverage(data_dir, features.stats_name)
    # A valid that is the evaluation split was never part of train.
    if split == "valid" and "same_as" not in coverage.get("valid", {}):
        check_valid_is_held_out(fingerprint(open_split(data_dir, "train", **where)), chosen, data_dir)
    if world.is_main:
        warn_of_foreign_normalization(tagger.frontend, coverage, split)
    loader = evaluation_loader(config.model_copy(update={"features": features}), manifest, len(labels), world)
    batches = progress(loader, len(loader), f"scoring {split}", "batch", enabled=world.is_main)
    scores = score_batches(tagger, batches, device=world.device, columns=columns)
    scores = gather_scores(scores, world)
    if not world.is_main:
        return
    folder = exp_dir / f"eval_{split}_{chosen.name}"
    metrics = write_evaluation(
        folder,
        scores,
        labels,
        info={
            "title": config.title,
            "split": split,
            "weights": chosen.name,
            "checkpoints": chosen.files,
            "selected_on": selected_on(chosen, config),
            "coverage": coverage,
            "provenance": collect_provenance(),
        },
        zero_without_positives=config.evaluation.zero_without_positives,
    )
    shown = ", ".join(
        f"{name} {metrics.summary[name]:.4f}" for name in ("mAP", "mAUC") if metrics.summary[name] is not None
    )
    logger.info("%s, %d clips: %s; written to %s", split, len(scores.ids), shown, folder)


def selected_on(chosen: ChosenWeights, config: Config) -> str | None:
    """The split whose metric chose the epoch: `eval` where the run's valid was that; None for a given one."""
    if not config.evaluation.best:
        return None
    return chosen.checkpoint.get("coverage", {}).get("valid", {}).get("same_as", "valid")


def check_valid_is_held_out(train_data: dict, chosen: ChosenWeights, data_dir: Path) -> None:
    """Refuse a valid split that was carved out of other clips than the model was trained on."""
    if chosen.checkpoint.get("train_data") != train_data:
        raise DataError(
            f"{data_dir} was prepared anew since the model was trained, so its valid split may hold clips "
            "that the model has seen: evaluate on eval alone (--set 'evaluation.splits=[eval]'), or prepare "
            "the data as it was"
        )


def columns_by_mid(labels: LabelTable, model_labels: LabelTable) -> list[int]:
    """The model's output column of each of the corpus' classes; their orders may differ."""
    missing = [label for label in labels if label.mid not in model_labels.index_of_mid]
    if missing:
        raise CheckpointError(
            f"the model does not know {len(missing)} of the corpus' {len(labels)} classes, "
            f"among them {missing[0].mid} ({missing[0].name}); it was trained with other labels"
        )
    return [model_labels.index_of_mid[label.mid] for label in labels]


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("evaluate", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of stages 1-4")
    parser.add_argument("--exp-dir", type=Path, required=True, help="folder of the run, such as exp/ast_tiny")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto for a GPU where there is one")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--epoch", type=int, help="evaluate this epoch, not what the config says")
    which.add_argument("--best", action="store_true", help="evaluate the best epoch by the validation metric")
    parser.add_argument("--avg", type=int, help="average this many epochs, ending at that one")
    parser.add_argument(
        "--split",
        action="append",
        choices=["valid", "eval"],
        help="split to score, not what the config says; may be repeated",
    )
    args = parser.parse_args()
    if args.epoch is not None:
        args.overrides += [f"evaluation.epoch={args.epoch}", "evaluation.best=false"]
    if args.best:
        args.overrides += ["evaluation.best=true", "evaluation.epoch=null"]
    if args.avg is not None:
        args.overrides.append(f"evaluation.avg={args.avg}")
    if args.split:
        args.overrides.append(f"evaluation.splits=[{', '.join(args.split)}]")
    return args


if __name__ == "__main__":
    run_command(main)
