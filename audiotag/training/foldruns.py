"""The runs of a cross-validation: one folder for each fold, which must be the same experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audiotag.configfile import validate
from audiotag.errors import CheckpointError, DataError
from audiotag.evaluation.crossvalidation import FoldRun
from audiotag.evaluation.freshness import leave_out_stale
from audiotag.evaluation.report import find_evaluations
from audiotag.labels import LabelTable
from audiotag.places import fold_folder
from audiotag.stagekeys import RUNTIME_KEYS
from audiotag.training.averaging import stopped_early
from audiotag.training.checkpoint import EPOCH_NAME, list_epochs, list_steps
from audiotag.training.resume import flatten
from audiotag.training.weightchoice import newest_checkpoint

# What may differ between the folds of one experiment.
OWN_KEYS = (*RUNTIME_KEYS, "title", "evaluation", "corpus.dir", "corpus.fold", "augment.noise.dir")
# What stage 4 measured of the fold's own train split.
MEASURED_KEYS = ("features.mean", "features.std")


def read_folds(exp_dir: Path, num_folds: int) -> list[FoldRun]:
    """The runs of all folds; an error names one that is missing, unfinished or another experiment."""
    if not exp_dir.is_dir():
        raise DataError(f"experiment folder not found: {exp_dir}; train the folds first (stages 1 to 6)")
    missing = [
        fold
        for fold in range(1, num_folds + 1)
        if not list_epochs(fold_folder(exp_dir, fold)) and not list_steps(fold_folder(exp_dir, fold))
    ]
    if missing:
        named = ", ".join(map(str, missing))
        raise CheckpointError(
            f"{fold_folder(exp_dir, missing[0])} has no checkpoint: of {num_folds} folds the runs of {named} "
            f"are missing; run them (--fold {missing[0]})"
        )
    runs, first = [], None
    for fold in range(1, num_folds + 1):
        folder = fold_folder(exp_dir, fold)
        state = newest_checkpoint(folder)[1]
        check_fold(state, fold, folder)
        first = first or state
        check_same_experiment(first, state, folder)
        runs.append(run_of(state, fold, folder))
    return runs


def check_fold(state: dict[str, Any], fold: int, folder: Path) -> None:
    """Refuse the run of another fold, and one that has not come to its end."""
    trained_for = state["config"]["corpus"].get("fold")
    if trained_for != fold:
        raise CheckpointError(f"{folder} holds a run of fold {trained_for}, expected fold {fold}")
    done, wanted = state["position"]["epoch"], state["config"]["training"]["epochs"]
    if done < wanted and not stopped_early(state):
        raise CheckpointError(
            f"{folder} is not finished: epoch {done} of {wanted} is done; train on (--fold {fold} --stage 5)"
        )


def check_same_experiment(first: dict[str, Any], state: dict[str, Any], folder: Path) -> None:
    """Refuse a fold that was trained with other settings, or on other classes, than the first one."""
    expected, found = settings_of(first, folder), settings_of(state, folder)
    own = OWN_KEYS
    if expected.get("features.normalization") == "corpus":
        own += MEASURED_KEYS
    for key in sorted(expected.keys() | found.keys()):
        if any(key == free or key.startswith(f"{free}.") for free in own):
            continue
        if expected.get(key) != found.get(key):
            raise CheckpointError(
                f"{folder} was trained with {key} {found.get(key)!r}, fold 1 with {expected.get(key)!r}: one "
                "table over both would mean nothing; train them alike (--restart), or under another --tag"
            )
    before, now = (sorted((one.get("init") or {}).get("sha256", {}).values()) for one in (first, state))
    # A model of a fold is the start of its own fold alone.
    if before != now and not all((one.get("init") or {}).get("folds") for one in (first, state)):
        raise CheckpointError(
            f"{folder} did not start from the same model as fold 1 (its SHA-256 is another one): train them "
            "alike (--restart), or under another --tag"
        )
    if first["labels"] != state["labels"]:
        raise CheckpointError(f"{folder} was trained on other classes than fold 1")


def settings_of(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration as dotted keys; those that came with a newer version have their defaults."""
    config = validate(state["config"], {}, f"a checkpoint of {folder.parent}")
    return flatten(config.model_dump(mode="json"))


def run_of(state: dict[str, Any], fold: int, folder: Path) -> FoldRun:
    """What the newest checkpoint and the evaluations of a fold say."""
    by_epoch = {}
    for entry in state.get("validations") or ():
        if match := EPOCH_NAME.fullmatch(entry["file"]):
            by_epoch[int(match.group(1))] = float(entry["value"])
    # Validations alone make a table, too.
    evaluations = find_evaluations(folder) if any(folder.glob("eval_*/metrics.json")) else []
    if evaluations:
        evaluations, _ = leave_out_stale(folder, evaluations)
    return FoldRun(
        fold=fold,
        metric=state["config"]["training"]["best_metric"],
        by_epoch=by_epoch,
        is_of_eval=state["coverage"].get("valid", {}).get("same_as") == "eval",
        title=state["config"].get("title", ""),
        labels=LabelTable.from_rows(state["labels"]),
        evaluations=evaluations,
    )
