"""Models of other folds: what a cross-validation evaluates on in one fold, those of all others have learnt.

Checkpoints and exported folders say which folds their weights come from, by themselves or by way of models
that they started or learnt from. A run that is evaluated on one fold neither starts from a model of another
one nor learns from it: its results would be worth nothing, and nothing would show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from audiotag.config import Config
from audiotag.data.splits import read_coverage
from audiotag.errors import ConfigError
from audiotag.export.package import read_description
from audiotag.training.checkpoint import FORMAT

# Of what exported folders of old say, and of data that another configuration prepared.
UNNAMED = ""


class Fold(NamedTuple):
    """The part of a corpus that is evaluated on, in a corpus that is published in such parts."""

    corpus: str
    number: int

    def shares_clips(self, other: Fold | None) -> bool:
        """Whether a model for this fold has learnt the clips that are evaluated on in another one."""
        # Where the corpus is not named, it is the only one that has folds.
        return (
            other is not None
            and self.number != other.number
            and (self.corpus == other.corpus or UNNAMED in (self.corpus, other.corpus))
        )


def fold_here(config: Config, data_dir: Path | None = None) -> Fold | None:
    """The fold that a run will be evaluated on: that of the prepared data, else that of the configuration."""
    return fold_of_data(config.corpus.model_dump(), data_dir)


def fold_of_data(corpus: Mapping[str, Any], data_dir: Path | None) -> Fold | None:
    """The fold that a data folder is about, or a section `corpus` where it is not prepared."""
    prepared = data_dir is not None and (data_dir / "manifests" / "coverage.json").exists()
    return fold_of(corpus, read_coverage(data_dir) if prepared else {})


def fold_of(corpus: Mapping[str, Any], coverage: Mapping[str, Any]) -> Fold | None:
    """The fold that a section `corpus` and what stage 1 says of the splits are about, if it is one."""
    # The data may have been prepared by another configuration, which is then the one that counts.
    number = (coverage.get("notes") or {}).get("fold", corpus.get("fold"))
    return None if number is None else Fold(corpus["name"] if "fold" in corpus else UNNAMED, number)


def folds_behind_all(paths: Iterable[Path]) -> list[Fold]:
    """The folds that weights of several files or folders come from, each once and in their order."""
    return sorted({fold for path in paths for fold in folds_behind(path)})


def folds_behind(path: Path) -> list[Fold]:
    """The folds that the weights of a file or folder come from; none for models that do not say it.

    A file that cannot be read says nothing here: what opens it will complain.
    """
    try:
        if path.is_dir():
            return folds_in(read_description(path).get("info") or {}, {})
        # Of mapped files only the plain values are read.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return folds_in(state, state["config"]) if state["format"] == FORMAT else []
    except Exception:  # bytes of anything make torch's reader fail in many ways
        return []


def folds_in(record: Mapping[str, Any], config: Mapping[str, Any]) -> list[Fold]:
    """The folds that a checkpoint or the info of an exported folder names; old ones name their own alone."""
    if "folds" in record:
        return [Fold(*fold) for fold in record["folds"]]
    own = fold_of(config.get("corpus") or {}, record.get("coverage") or {})
    return [] if own is None else [own]


def folds_of_sources(config: Config) -> list[Fold]:
    """The folds whose clips other recipes' data, `data.sources`, bring in."""
    folders = [Path(source.data_dir) for source in config.data.sources or () if source.data_dir]
    folds = [fold_of_data({}, folder) for folder in folders]
    return [fold for fold in folds if fold is not None]


def all_folds(
    here: Fold | None, records: Iterable[Mapping[str, Any] | None], learnt: Iterable[Fold] = ()
) -> list[list[Any]]:
    """The folds that the weights of a run will come from, as its checkpoints keep them.

    Args:
        here: that of its own.
        records: what is kept of the model that it starts from, and its own checkpoint where it goes on.
        learnt: those of its teachers and of other recipes' clips.
    """
    before = [Fold(*fold) for record in records if record for fold in record.get("folds", ())]
    return [list(fold) for fold in sorted({*([here] if here else []), *before, *learnt})]


def refuse_other_folds(here: Fold | None, paths: Iterable[Path], key: str) -> None:
    """Refuse models that have learnt clips of the fold that this run will be evaluated on.

    Args:
        here: that fold; None where the corpus has none.
        paths: the files or folders of the models.
        key: of the configuration, which names them.
    """
    for path in paths:
        for fold in folds_behind(path):
            if fold.shares_clips(here):
                raise ConfigError(
                    f"{key}: {path} comes of a training for fold {fold.number}, which has learnt the clips "
                    f"of fold {here.number} (corpus.fold) that this run is evaluated on, so that its results "
                    f"would be worth nothing; name the model of fold {here.number}, or the folder that the "
                    "runs of all folds lie in, of which each fold takes its own"
                )
