"""Places in a configuration: paths that name variables of db.sh, so that a recipe is the same file on every
site, folders of all folds of a cross-validation, and names on the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from audiotag.errors import ConfigError

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
FILE_OF_WEIGHTS = re.compile(r".*\.(pth?|bin|ckpt|safetensors)")
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def resolve_place(place: str, key: str) -> str:
    """The place with its variables, $NAME or ${NAME}, replaced by what the environment has for them.

    Args:
        place: as the configuration has it.
        key: of the configuration, for the error of a variable that is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = os.environ.get(name)
        if not found:
            raise ConfigError(
                f"{key} is {place}, but {name} is not set: write it into db.sh, or set {key} to a path"
            )
        return found

    return VARIABLE.sub(value, place)


def fold_folder(exp_dir: Path, fold: int) -> Path:
    """Where the driver keeps the run of one fold."""
    return exp_dir / f"fold{fold}"


def of_this_fold(place: str, fold: int | None) -> str:
    """The run of a fold where a place is the folder of a cross-validation; else the place as it is."""
    path = Path(place).expanduser()
    if fold is None or not any(folder.is_dir() for folder in path.glob("fold[1-9]*")):
        return place
    return str(fold_folder(path, fold))


def is_hub_name(text: str) -> bool:
    """Whether a text can be the name of a model on the hub, OWNER/NAME, rather than that of a file."""
    return HUB_NAME.fullmatch(text) is not None and not FILE_OF_WEIGHTS.fullmatch(text)
