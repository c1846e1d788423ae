"""audiotag's own models, read like those of others: a training checkpoint or an exported folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audiotag.export.package import FORMAT as PACKAGE_FORMAT
from audiotag.export.package import WEIGHTS_FILE, TrainedModel, load_model
from audiotag.interop.sourcemodel import Hints, SourceModel, make_layout
from audiotag.training.checkpoint import FORMAT as CHECKPOINT_FORMAT


def is_own(path: Path, content: Any) -> bool:
    """Whether this is a checkpoint, by its content, or an exported folder, by its config.json."""
    return isinstance(content, Mapping) and content.get("format") in (CHECKPOINT_FORMAT, PACKAGE_FORMAT)


def read_own(path: Path, hints: Hints) -> SourceModel:
    """The model of a checkpoint or folder."""
    return source_of(load_model(path), path, (path / WEIGHTS_FILE if path.is_dir() else path,))


def source_of(model: TrainedModel, path: Path, files: tuple[Path, ...]) -> SourceModel:
    """A model that is open, as one that others start from."""
    features, encoder = model.config["features"], model.config["encoder"]
    return SourceModel(
        path,
        files,
        {name: value.float() for name, value in model.tagger.state_dict().items()},
        encoder,
        features,
        make_layout(features, encoder),
        model.tagger.labels,
        model.loss,
    )
