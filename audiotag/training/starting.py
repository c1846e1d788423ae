"""What a run starts from: the weights that the `init` section names, given to the model before training.

They play no part in a run that goes on from a checkpoint of its own; the file need not be there any more.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audiotag.config import Config
from audiotag.configinit import Init
from audiotag.distributed import World
from audiotag.errors import CheckpointError, ConfigError
from audiotag.interop.formats import find_format, read_model
from audiotag.interop.hub import find_model
from audiotag.interop.sourcemodel import Hints, SourceModel
from audiotag.interop.transfer import transfer_weights
from audiotag.places import resolve_place
from audiotag.provenance import file_digest
from audiotag.tagger import Tagger, build_frontend

logger = logging.getLogger(__name__)

KEY = "init.model"
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


def locate_start(init: Init) -> Path:
    """The file or folder of the model to start from, fetched if it is on the hub."""
    try:
        return find_model(resolve_place(init.model, KEY), KEY, init.format)
    except (ConfigError, CheckpointError) as error:
        raise type(error)(f"{error}; --set {KEY}=null starts from random weights") from None


def read_start(config: Config, world: World) -> Start | None:
    """The model that the `init` section names, on every process; None where it names none."""
    init = config.init
    if init.model is None:
        return None
    # Only one process asks the hub; another machine may not see its cache.
    path = locate_start(init) if world.is_main else None
    path = world.gather(path)[0]
    if not path.exists():
        path = locate_start(init)
    name = find_format(path) if init.format == "auto" else init.format
    encoder = config.encoder.model_dump(mode="json")
    untold = {key: encoder[key] for key in UNTOLD.get(encoder["name"], ())}
    source = read_model(path, name, Hints(untold, build_frontend(config.features.model_dump()).target_frames))
    origin = {"model": init.model, "path": str(path.resolve()), "format": name}
    if world.is_main:
        origin["sha256"] = digests(source.files)
    return Start(source, origin)


def begin_with(start: Start, tagger: Tagger, config: Config) -> dict[str, Any]:
    """Give a fresh tagger the weights it starts from; what checkpoints are to say of it."""
    encoder = config.encoder.model_dump(mode="json")
    warn_of_other_features(config.features.model_dump(mode="json"), start.source)
    transfer = transfer_weights(tagger, encoder, start.source, config.init.head, config.init.layers)
    logger.info("starting from %s (%s): %s", start.origin["path"], start.origin["format"], transfer)
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


def check_same_start(init: Init, before: Mapping[str, Any] | None, *, allow_changes: bool) -> None:
    """Refuse to go on with a run whose start is no longer what its name stands for.

    Args:
        before: what the checkpoint says of its start.
        allow_changes: only warn.
    """
    if init.model is None or before is None:
        return
    try:
        path = Path(resolve_place(init.model, KEY)).expanduser()
    except ConfigError:
        return
    files = [path / name for name in before["sha256"]] if path.is_dir() else [path]
    if not all(file.is_file() for file in files):
        return
    if list(digests(files).values()) == list(before["sha256"].values()):
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
