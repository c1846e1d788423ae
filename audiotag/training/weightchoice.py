"""From a choice of weights to the checkpoint files that it means, and a short name for it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from audiotag.configevaluation import WeightChoice
from audiotag.errors import CheckpointError
from audiotag.training.checkpoint import (
    EPOCH_NAME,
    epoch_path,
    list_epochs,
    list_steps,
    load_checkpoint,
    step_path,
)
from audiotag.training.scoreboard import Scoreboard

AVERAGED_PREFIX = "averaged-"


@dataclass(frozen=True)
class ChosenFiles:
    """Checkpoint files, all else being taken from the last; names of folders are made of `name`.

    by_validation: a validation metric chose them. at_the_end: they are where training ended so far.
    """

    name: str
    paths: list[Path]
    by_validation: bool = False
    at_the_end: bool = False


def choose_files(exp_dir: Path, choice: WeightChoice) -> ChosenFiles:
    """The files whose weights a choice takes or averages."""
    if choice.between:
        start, end = (find(exp_dir, name) for name in choice.between)
        return ChosenFiles(f"between-{short_name(start, exp_dir)}-{short_name(end, exp_dir)}", [start, end])
    if choice.use_averaged_model:
        return averaged_model_files(exp_dir, choice)
    if choice.checkpoints:
        chosen = named_files(exp_dir, choice.checkpoints)
    elif choice.best_k:
        chosen = best_files(exp_dir, choice.best_k)
    elif choice.best:
        chosen = files_to_the_best(exp_dir, choice.avg)
    elif choice.epoch is None and choice.avg == 1 and not list_epochs(exp_dir) and list_steps(exp_dir):
        # A run that stopped getting better inside its first epoch.
        newest = step_path(exp_dir, list_steps(exp_dir)[-1])
        chosen = ChosenFiles(short_name(newest, exp_dir), [newest], at_the_end=True)
    else:
        epochs = existing_epochs(exp_dir)
        last = choice.epoch or epochs[-1]
        paths = epochs_up_to(exp_dir, last, choice.avg)
        chosen = ChosenFiles(f"epoch{last}", paths, at_the_end=choice.epoch is None)
    return replace(chosen, name=f"{chosen.name}-avg{choice.avg}") if choice.avg > 1 else chosen


def averaged_model_files(exp_dir: Path, choice: WeightChoice) -> ChosenFiles:
    """The checkpoint before the chosen epochs and the one at their end, for the mean of what lies between."""
    if choice.best:
        end = files_to_the_best(exp_dir, 1)
        if not (match := EPOCH_NAME.fullmatch(end.paths[0].name)):
            raise CheckpointError(
                f"{exp_dir}: the best checkpoint is {end.paths[0].name}, inside an epoch, where no average "
                "of epochs ends: choose an epoch, or name two checkpoints with evaluation.between"
            )
        last = int(match.group(1))
    else:
        last = choice.epoch or existing_epochs(exp_dir)[-1]
        end = ChosenFiles(f"epoch{last}", epochs_up_to(exp_dir, last, 1))
    start = last - choice.avg
    if start < 1:
        raise CheckpointError(
            f"the averaged model of --avg {choice.avg} up to epoch {last} begins after epoch {start}, which "
            "has no checkpoint: choose a smaller --avg (the mean from the beginning is --weights "
            "running_average), or set evaluation.use_averaged_model to false"
        )
    if start not in existing_epochs(exp_dir):
        raise CheckpointError(
            f"{exp_dir} has no checkpoint of epoch {start}, after which the averaged model begins; there are "
            f"{', '.join(map(str, existing_epochs(exp_dir)))} (training.keep_last decides how many are kept)"
        )
    name = f"{end.name}-avg{choice.avg}-averaged-model"
    return ChosenFiles(name, [epoch_path(exp_dir, start), *end.paths], end.by_validation)


def existing_epochs(exp_dir: Path) -> list[int]:
    """The epochs that have a checkpoint, at least one."""
    epochs = list_epochs(exp_dir)
    if epochs:
        return epochs
    if steps := list_steps(exp_dir):
        raise CheckpointError(
            f"{exp_dir} holds no epoch-<n>.pt yet, only {steps_in_words(steps)}: train on (stage 5), or name "
            "the file with evaluation.checkpoints"
        )
    raise CheckpointError(f"{exp_dir} holds no epoch-<n>.pt; stage 5 makes them (./run.sh --stage 5)")


def epochs_up_to(exp_dir: Path, last: int, count: int) -> list[Path]:
    """The checkpoints of this many epochs, ending at the given one."""
    epochs = existing_epochs(exp_dir)
    if count > last:
        raise CheckpointError(f"epoch {last} cannot end an average of {count} epochs: choose a smaller --avg")
    wanted = range(last - count + 1, last + 1)
    missing = [number for number in wanted if number not in epochs]
    if missing:
        raise CheckpointError(
            f"{exp_dir} has no checkpoint of epoch {missing[0]}, which "
            f"{'the average' if count > 1 else 'the evaluation'} needs; "
            f"there are {', '.join(map(str, epochs))} (training.keep_last decides how many are kept)"
        )
    return [epoch_path(exp_dir, number) for number in wanted]


def files_to_the_best(exp_dir: Path, count: int) -> ChosenFiles:
    """The best checkpoint, with the epochs before it where several are averaged."""
    newest, state = newest_checkpoint(exp_dir)
    best = state["best"]
    if best is None:
        raise CheckpointError(
            f"{exp_dir}: no best epoch is known, since training had no valid split (corpus.valid_share)"
        )
    # Checkpoints of version 1 name no file: they were written at epochs' ends only.
    file = best.get("file", f"epoch-{best['epoch']}.pt")
    if match := EPOCH_NAME.fullmatch(file):
        epoch = int(match.group(1))
        return ChosenFiles(f"best{epoch}", epochs_up_to(exp_dir, epoch, count), by_validation=True)
    if count > 1:
        raise CheckpointError(
            f"{exp_dir}: the best checkpoint is {file}, inside an epoch, where no average of {count} epochs "
            "ends: set evaluation.avg to 1, or average the best ones with evaluation.best_k"
        )
    path = exp_dir / file
    check_kept(path, f"the best by {best['metric']}", newest)
    return ChosenFiles(f"best-{short_name(path, exp_dir)}", [path], by_validation=True)


def best_files(exp_dir: Path, count: int) -> ChosenFiles:
    """The checkpoints with the best validation metric, in the order in which training wrote them."""
    newest, state = newest_checkpoint(exp_dir)
    validations = state.get("validations")
    if not validations:
        raise CheckpointError(
            f"{newest} notes no validations, of which evaluation.best_k takes the best: either training had "
            "no valid split (corpus.valid_share), or the file is of version 1, which noted the best one "
            "alone (take --best, or name files with evaluation.checkpoints)"
        )
    board = Scoreboard(state["best"]["metric"])
    board.restore(state)
    ranking = board.ranking()
    if len(ranking) < count:
        raise CheckpointError(
            f"{newest} notes validations of {len(ranking)} checkpoints, too few for evaluation.best_k {count}"
        )
    for rank, file in enumerate(ranking[:count], start=1):
        check_kept(exp_dir / file, f"number {rank} of the best {count} by {board.metric}", newest)
    step_of = {entry["file"]: entry["step"] for entry in validations}
    files = sorted(ranking[:count], key=lambda file: step_of.get(file, 0))
    return ChosenFiles(f"best-k{count}", [exp_dir / file for file in files], by_validation=True)


def check_kept(path: Path, what: str, newest: Path) -> None:
    """Refuse to go without a file that validation found to be good."""
    if not path.is_file():
        raise CheckpointError(
            f"{path} is {what} according to {newest.name}, but it is not there (training.keep_best decides "
            "how many are kept): choose other weights, or name files with evaluation.checkpoints"
        )


def newest_checkpoint(exp_dir: Path) -> tuple[Path, dict[str, Any]]:
    """The run's checkpoint with the most updates, at an epoch's end or inside one."""
    epochs, steps = list_epochs(exp_dir), list_steps(exp_dir)
    if not epochs and not steps:
        existing_epochs(exp_dir)
    path = epoch_path(exp_dir, epochs[-1]) if epochs else step_path(exp_dir, steps[-1])
    state = load_checkpoint(path)
    if steps and steps[-1] > state["position"]["step"]:
        path = step_path(exp_dir, steps[-1])
        state = load_checkpoint(path)
    return path, state


def named_files(exp_dir: Path, names: Sequence[str]) -> ChosenFiles:
    """Files by name; several go by a hash of their names, which would be too long."""
    paths = [find(exp_dir, name) for name in names]
    twice = [path for index, path in enumerate(paths) if path in paths[:index]]
    if twice:
        raise CheckpointError(f"{twice[0]} is named twice in evaluation.checkpoints")
    if len(paths) == 1:
        return ChosenFiles(short_name(paths[0], exp_dir), paths)
    return ChosenFiles(f"files{len(paths)}-{hash_names(paths, exp_dir)}", paths)


def find(exp_dir: Path, name: str) -> Path:
    """A checkpoint file by its name in the experiment folder, or by its path."""
    path = exp_dir / name
    if not path.is_file():
        there = [f"epoch-{epoch}.pt" for epoch in list_epochs(exp_dir)]
        if steps := list_steps(exp_dir):
            there.append(steps_in_words(steps))
        raise CheckpointError(f"checkpoint not found: {path}; {exp_dir} has {', '.join(there) or 'none'}")
    # The same file has one path only, however it is named; it may itself be a link to other storage.
    folder = path.parent.resolve()
    return exp_dir / path.name if folder == exp_dir.resolve() else folder / path.name


def short_name(path: Path, exp_dir: Path) -> str:
    """`epoch3` for epoch-3.pt, `step40` for step-40.pt; a file of another folder has a hash added."""
    stem = path.stem
    if re.fullmatch(r"(epoch|step)-\d+", stem):
        name = stem.replace("-", "")
    else:
        name = stem if stem.startswith(AVERAGED_PREFIX) else f"file-{stem}"
    plain = re.fullmatch(r"[\w.-]{1,60}", name, re.ASCII)
    if plain and path.parent == exp_dir:
        return name
    return f"{name if plain else 'file'}-{hash_names([path], exp_dir)}"


def hash_names(paths: Sequence[Path], exp_dir: Path) -> str:
    """Eight digits that stand for a list of files."""
    text = "\n".join(shown_name(path, exp_dir) for path in paths)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def shown_name(path: Path, exp_dir: Path) -> str:
    """A file's name in the experiment folder, or its whole path when it lies elsewhere."""
    return path.name if path.parent == exp_dir else str(path)


def steps_in_words(steps: Sequence[int]) -> str:
    """step-10.pt, or the first and the last of several."""
    return f"step-{steps[0]}.pt" + (f" to step-{steps[-1]}.pt" if len(steps) > 1 else "")
