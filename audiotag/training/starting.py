"""What a run starts from: the weights that the `init` section names, given to the model before training.

They play no part in a run that goes on from a checkpoint of its own; the file need not be there any more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audiotag.config import Config
from audiotag.configevaluation import WeightChoice
from audiotag.configinit import Init
from audiotag.distributed import World
from audiotag.errors import CheckpointError, ConfigError
from audiotag.interop.formats import find_format, read_model
from audiotag.interop.hub import find_model
from audiotag.interop.own import source_of
from audiotag.interop.sourcemodel import Hints, SourceModel
from audiotag.interop.transfer import transfer_weights
from audiotag.places import of_this_fold, resolve_place
from audiotag.prediction.model import choice_of_run, chosen_model
from audiotag.provenance import file_digest
from audiotag.tagger import Tagger, build_frontend
from audiotag.training.averaging import choose_weights, warn_of_unmeasured_weights
from audiotag.training.checkpoint import holds_run
from audiotag.training.otherfolds import Fold, folds_behind_all, refuse_other_folds
from audiotag.training.weightchoice import choose_files

logger = logging.getLogger(__name__)

KEY = "init.model"
# Formats by which a run's folder, or a checkpoint, may be named.
OWN_FORMATS = ("auto", "audiotag")
# Settings that weights may not tell, which are then taken from the configuration; by encoder.
UNTOLD = {
    "ast": ("num_heads", "freq_stride", "time_stride"),
    "zipformer": ("pos_head_dim",),
    "beats": ("deep_norm", "max_distance"),
}


@dataclass(frozen=True)
class Start:
    """A model that was read to start from, and where it is from, in plain values for the checkpoints."""

    source: SourceModel
    origin: dict[str, Any]


def locate_start(init: Init, here: Fold | None = None) -> Path:
    """The file or folder of the model to start from, fetched if it is on the hub.

    here: the fold that the run will be evaluated on.
    """
    try:
        place = of_this_fold(resolve_place(init.model, KEY), here and here.number)
        return find_model(place, KEY, init.format)
    except (ConfigError, CheckpointError) as error:
        raise type(error)(f"{error}; --set {KEY}=null starts from random weights") from None


def find_start(init: Init, here: Fold | None) -> Path:
    """The file or folder of the model to start from, which is refused where it is of another fold."""
    path = locate_start(init, here)
    refuse_other_folds(here, files_of(init, path), KEY)
    return path


def files_of(init: Init, path: Path) -> list[Path]:
    """The checkpoints that a run's weights come from, or what else there is to start from."""
    choice = choice_among(init, path)
    with naming_the_run(init, path):
        return [path] if choice is None else choose_files(run_folder(path), choice).paths


def choice_among(init: Init, path: Path) -> WeightChoice | None:
    """Which weights of a run are taken; None where a model has one set of weights only."""
    chosen = init.chosen_keys
    if init.format in OWN_FORMATS and holds_run(path):
        with naming_the_run(init, path):
            return choice_of_run(path, init if chosen else None)
    if chosen == ["weights"] and init.format in OWN_FORMATS and path.suffix == ".pt":
        return WeightChoice(checkpoints=[path.name], weights=init.weights)
    if chosen:
        raise ConfigError(
            f"init.{chosen[0]} chooses among the weights of a run, but {path} is not the folder of one: "
            "leave it out, or name the run's folder"
        )
    return None


@contextmanager
def naming_the_run(init: Init, path: Path) -> Iterator[None]:
    """Say of an error about a choice among a run's weights which choice it is."""
    try:
        yield
    except (ConfigError, CheckpointError) as error:
        keys = [f"init.{name}" for name in init.chosen_keys]
        meant = f" ({', '.join(keys)}, called evaluation's in what follows)" if keys else ""
        raise type(error)(
            f"{KEY} is the run {path}, of whose weights none can be taken{meant}: {error}"
        ) from None


def run_folder(path: Path) -> Path:
    """The folder of a run, or that of one of its checkpoints."""
    return path if path.is_dir() else path.parent


def read_start(config: Config, world: World, here: Fold | None = None) -> Start | None:
    """The model that the `init` section names, on every process; None where it names none.

    here: the fold that the run will be evaluated on, whose clips the model must not have learnt.
    """
    init = config.init
    if init.model is None:
        return None
    # Only one process asks the hub; another machine may not see its cache.
    path = locate_start(init, here) if world.is_main else None
    path = world.gather(path)[0]
    if not path.exists():
        path = locate_start(init, here)
    refuse_other_folds(here, files := files_of(init, path), KEY)
    folds = [list(fold) for fold in folds_behind_all(files)]
    origin = {"model": init.model, "path": str(path.resolve()), "folds": folds}
    choice = choice_among(init, path)
    if choice is not None:
        with naming_the_run(init, path):
            return read_run(path, choice, origin)
    name = find_format(path) if init.format == "auto" else init.format
    encoder = config.encoder.model_dump(mode="json")
    untold = {key: encoder[key] for key in UNTOLD.get(encoder["name"], ())}
    source = read_model(path, name, Hints(untold, build_frontend(config.features.model_dump()).target_frames))
    origin["format"] = name
    if world.is_main:
        origin["sha256"] = digests(source.files)
    return Start(source, origin)


def read_run(path: Path, choice: WeightChoice, origin: dict[str, Any]) -> Start:
    """Weights of a run to start from."""
    folder = run_folder(path)
    chosen = choose_weights(folder, choice)
    warn_of_unmeasured_weights(chosen)
    source = source_of(chosen_model(chosen, folder), path, tuple(folder / name for name in chosen.files))
    return Start(source, {**origin, "format": "audiotag", "weights": chosen.name, "sha256": chosen.sha256})


def begin_with(start: Start, tagger: Tagger, config: Config) -> dict[str, Any]:
    """Give a fresh tagger the weights it starts from; what checkpoints are to say of it."""
    encoder = config.encoder.model_dump(mode="json")
    warn_of_other_features(config.features.model_dump(mode="json"), start.source)
    transfer = transfer_weights(tagger, encoder, start.source, config.init.head, config.init.layers)
    weights = f", {start.origin['weights']}" if "weights" in start.origin else ""
    logger.info(
        "starting from %s (%s%s): %s", start.origin["path"], start.origin["format"], weights, transfer
    )
    return {**start.origin, **asdict(transfer)}


def warn_of_other_features(features: dict[str, Any], source: SourceModel) -> None:
    """Say what a model was trained to hear that it will not hear here."""
    if source.features is None:
        return
    theirs = dict(source.features)
    if features["preset"] != theirs["preset"]:
        logger.warning(
            "features.preset is %s, %s was trained with %s", features["preset"], source.path, theirs["preset"]
        )
        return
    ours, before = (
        (frontend.mean, frontend.std) for frontend in (build_frontend(features), build_frontend(theirs))
    )
    if ours != before:
        logger.warning(
            "features are normalised by %s, those that %s was trained with by %s; to have the same, set "
            "features.mean and features.std",
            scale_in_words(*ours),
            source.path,
            scale_in_words(*before),
        )


def scale_in_words(mean: float | None, std: float | None) -> str:
    """A mean and a deviation."""
    return "nothing" if mean is None else f"mean {mean:.7g} and deviation {std:.7g}"


def check_same_start(
    init: Init, before: Mapping[str, Any] | None, here: Fold | None = None, *, allow_changes: bool
) -> None:
    """Refuse to go on with a run whose start is no longer what its name stands for.

    Args:
        init: the section.
        here: the fold that the run will be evaluated on.
        before: what the checkpoint says of its start.
        allow_changes: only warn.
    """
    if init.model is None or before is None:
        return
    try:
        path = Path(of_this_fold(resolve_place(init.model, KEY), here and here.number)).expanduser()
    except ConfigError:
        return
    files = [path / name for name in before["sha256"]] if path.is_dir() else [path]
    if not all(file.is_file() for file in files):
        return
    if [file_digest(file) for file in files] == list(before["sha256"].values()):
        return
    message = f"{KEY}: {path} is no longer what the run started from (its SHA-256 has changed)"
    if allow_changes:
        logger.warning("%s", message)
        return
    raise ConfigError(
        f"{message}; put the old file back, take another --tag, start afresh with --restart, or go on all "
        "the same with --allow-changes"
    )


def digests(files: tuple[Path, ...] | list[Path]) -> dict[str, str]:
    """SHA-256 by name."""
    return {file.name: file_digest(file) for file in files}
