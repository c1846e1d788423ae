"""Disk space for what training stores of every clip: teachers' scores, and embeddings of a frozen encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from audiotag.config import Config
from audiotag.data.rowstore import RowKind
from audiotag.data.splits import manifest_path, open_split
from audiotag.distillation.hearing import SCORES
from audiotag.training.probing import EMBEDDINGS

LARGEST_HEADER = 256  # bytes of a .npy file before its numbers


def planned_rows(config: Config, data_dir: Path, num_classes: int, width: int) -> dict[str, float]:
    """The most bytes that training has yet to have on disk at a time, by what they hold; 0 for what is there.

    While a store is put together, all its rows are there twice.

    Args:
        config: of the recipe, whose clips and those of its sources have been listed.
        data_dir: of stages 1-4.
        num_classes: of the recipe.
        width: of an embedding.
    """
    planned: dict[str, float] = {}
    if config.distillation and config.distillation.mode == "stored":
        clips = num_training_clips(config, data_dir)
        planned["teachers' scores"] = 2 * missing_bytes(data_dir / "teacher", SCORES, clips, num_classes)
    if config.encoder.freeze:
        counts = [num_training_clips(config, data_dir)]
        if config.evaluation.window_s is None:  # windows are heard at each validation
            counts.append(num_clips(config, data_dir, "valid"))
        sizes = [missing_bytes(data_dir / "embeddings", EMBEDDINGS, clips, width) for clips in counts]
        planned["embeddings"] = sum(sizes) + max(sizes)
    return planned


def num_training_clips(config: Config, data_dir: Path) -> int:
    """Clips of train, or of all that `data.sources` names."""
    places = [source.data_dir or data_dir for source in config.data.sources or ()] or [data_dir]
    return sum(num_clips(config, Path(place), "train") for place in places)


def num_clips(config: Config, data_dir: Path, split: str) -> int:
    """Clips of a split; 0 of `valid` where none is held out."""
    where = {"preset": config.features.preset, "storage": "on_the_fly"}
    held_out = config.corpus.valid_share > 0 or manifest_path(data_dir, split, **where).is_file()
    return len(open_split(data_dir, split, **where)) if split == "train" or held_out else 0


def missing_bytes(folder: Path, kind: RowKind, clips: int, width: int) -> float:
    """Bytes of a store that is not there; one of this size in the folder is taken for it.

    What it was made of is known only once the models are read, which look at the disk themselves then.
    """
    size = clips * width * np.dtype(kind.dtype).itemsize
    for path in folder.glob(f"*/{kind.name}.npy"):
        if 0 <= path.stat().st_size - size <= LARGEST_HEADER:
            return 0.0
    return float(size)
