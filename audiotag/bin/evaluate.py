"""Score a trained model on the configured splits: scores.npz, metrics.json, per_class.csv.

The `evaluation` section of the config chooses the weights, the splits and how clips are scored; options
overrule it. Everything about the model comes from its checkpoint. Under torchrun the clips are shared out
over the processes; the results are the same.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from audiotag.commandline import add_config_arguments, config_from_args, make_parser
from audiotag.config import Config
from audiotag.data.normalization import warn_of_foreign_normalization
from audiotag.data.splits import open_split, read_coverage, read_labels
from audiotag.distributed import World, join_world
from audiotag.errors import CheckpointError, DataError, run_command
from audiotag.evaluation.conditions import (
    describe_windows,
    device_name,
    folder_suffix,
    precision_in_words,
    weights_in_words,
)
from audiotag.evaluation.results import write_evaluation
from audiotag.evaluation.scoring import AMP_DTYPES, check_finite, gather_scores, score_batches
from audiotag.export.package import TrainedModel
from audiotag.labels import LabelTable
from audiotag.logs import progress, set_up_logging
from audiotag.matrixproducts import allow_tf32
from audiotag.prediction.model import chosen_model
from audiotag.provenance import collect_provenance
from audiotag.training.averaging import (
    ChosenWeights,
    add_weight_arguments,
    choose_weights,
    warn_of_unmeasured_weights,
    weight_overrides,
)
from audiotag.training.loaders import evaluation_loader, windowing
from audiotag.training.resume import fingerprint
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
    tagger = model.tagger
    # The data come as the model knows them, stored or computed as the configuration says.
    known = {key: model.config["features"][key] for key in ("preset", "target_frames")}
    features = config.features.model_copy(update=known)
    config = config.model_copy(update={"features": features})
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
    start = time.monotonic()
    loader = evaluation_loader(config, manifest, len(labels), world, loss=model.loss)
    scores = gather_scores(
        score_batches(
            tagger,
            progress(loader, len(loader), f"scoring {split}", "batch", enabled=world.is_main),
            device=world.device,
            amp_dtype=AMP_DTYPES[choice.amp],
            loss=model.loss,
            columns=columns,
        ),
        world,
    )
    if scores is None:
        return
    elapsed_s = time.monotonic() - start
    check_finite(scores, tagger, choice.amp)
    windows = windowing(choice, model.loss)
    name = chosen.name + folder_suffix(choice.amp, windows)
    folder = exp_dir / f"eval_{split}_{name}"
    metrics = write_evaluation(
        folder,
        scores,
        labels,
        info={
            "title": config.title,
            "split": split,
            "weights": name,
            "weights_in_words": weights_in_words(chosen.origin),
            "checkpoints": chosen.files,
            "sha256": chosen.sha256,
            "kind": chosen.kind,
            "between": chosen.between,
            "averaged": chosen.averaged,
            "training": {
                "processes": chosen.checkpoint["position"].get("world_size"),
                "provenance": chosen.checkpoint.get("provenance") or {},
            },
            "selected_on": selected_on(chosen),
            "precision": precision_in_words(choice.amp, world.device, config.training.tf32),
            "windows": describe_windows(windows, manifest.durations),
            "batch_size": choice.batch_size,
            "batch_independent": tagger.encoder.batch_independent,
            "processes": world.size,
            "device": device_name(world.device),
            "clips_per_s": round(len(scores.ids) / elapsed_s, 3),
            "coverage": coverage,
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
        len(scores.ids),
        len(scores.ids) / elapsed_s,
        shown,
        folder,
    )


def selected_on(chosen: ChosenWeights) -> str | None:
    """The split whose metric chose the weights: `eval` where the run's valid was that; None for none.

    It chose the last epoch, too, where it ended training early.
    """
    if not chosen.by_validation and not chosen.by_stopping:
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
