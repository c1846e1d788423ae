"""Scores of an ensemble's models, kept in its folder, so that each model is scored once.

They are evaluation folders like any others. What was scored, and how, stands in `scored` of their info; when
any of it has changed since, they are made anew.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import Any

import audiotag
from audiotag.config import Config
from audiotag.configensemble import Ensemble
from audiotag.data.splits import open_split, read_labels
from audiotag.distributed import World
from audiotag.errors import DataError
from audiotag.evaluation.comparison import read_system
from audiotag.evaluation.conditions import folder_suffix, precision_in_words
from audiotag.evaluation.results import read_evaluation, write_evaluation
from audiotag.export.package import TrainedModel, load_model, read_description
from audiotag.prediction.members import Source
from audiotag.prediction.model import chosen_model, describe_chosen
from audiotag.prediction.splitscores import check_fold, check_valid_is_held_out, score_split
from audiotag.provenance import collect_provenance, file_digest
from audiotag.training.averaging import choose_weights, warn_of_unmeasured_weights
from audiotag.training.loaders import windowing
from audiotag.training.otherfolds import folds_behind
from audiotag.training.resume import fingerprint
from audiotag.training.weightchoice import choose_files

logger = logging.getLogger(__name__)

PACKAGE_FILES = ("model.safetensors", "config.json", "labels.csv")


class ModelScorer:
    """Scores members that are models, unless their scores are there already.

    Args:
        ensemble: how they are scored.
        data_dir: folder of stages 1-4.
        folder: where the scores are kept.
        world: the processes, all of which call the methods alike.
    """

    def __init__(self, ensemble: Ensemble, data_dir: Path, folder: Path, world: World) -> None:
        self.config = scoring_config(ensemble)
        self.data_dir, self.folder, self.world = data_dir, folder, world

    def score(self, source: Source, splits: list[str]) -> dict[str, Path]:
        """The evaluation folders of a run or packed model, by split."""
        wanted = None
        if self.world.is_main:
            scored = {split: self.what_is_scored(source, split) for split in splits}
            wanted = {split: what for split, what in scored.items() if not self.is_there(source, split, what)}
        # All processes go by what the first one sees.
        wanted = self.world.gather(wanted)[0]
        if wanted:
            self.score_model(source, wanted)
        return {split: self.place(source, split) for split in splits}

    def place(self, source: Source, split: str) -> Path:
        """Where the scores of a member on a split are kept."""
        text = f"{source.path.absolute()} {source.choice and source.choice.model_dump_json()}"
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
        name = re.sub(r"[^\w.-]+", "_", source.name, flags=re.ASCII).strip("_.")[-60:]
        return self.folder / f"{name}-{digest}" / f"eval_{split}_scores"

    def what_is_scored(self, source: Source, split: str) -> dict[str, Any]:
        """All that scores depend on: the model's files, the clips and classes, the settings."""
        if source.choice is None:
            files = [source.path / name for name in PACKAGE_FILES]
        else:
            files = choose_files(source.path, source.choice).paths
        known = self.before(source, split).get("model") or {}
        evaluation = self.config.evaluation.model_dump(mode="json", exclude={"bootstrap", "splits"})
        manifest = open_split(self.data_dir, split, preset=self.config.features.preset, storage="on_the_fly")
        return {
            "model": {str(path.absolute()): stamp(path, known) for path in files},
            "weights": source.choice and source.choice.model_dump(mode="json"),
            "clips": fingerprint(manifest),
            "classes": [label.mid for label in read_labels(self.data_dir)],
            "settings": {
                **evaluation,
                "storage": self.config.features.storage,
                "precision": precision_in_words(
                    self.config.evaluation.amp, self.world.device, self.config.training.tf32
                ),
                "audiotag": audiotag.__version__,
            },
        }

    def before(self, source: Source, split: str) -> dict[str, Any]:
        """What was scored when the scores that are there were made; empty without usable ones."""
        place = self.place(source, split)
        if not (place / "metrics.json").exists():
            return {}
        try:
            return read_evaluation(place).info.get("scored") or {}
        except DataError as error:
            logger.warning("%s is scored again on %s: %s", source.name, split, error)
            return {}

    def is_there(self, source: Source, split: str, what: dict[str, Any]) -> bool:
        """Whether the scores of just this are there; says what is different about others."""
        before = self.before(source, split)
        if not before:
            return False
        changed = [name for name in what if without_times(before.get(name)) != without_times(what[name])]
        place = self.place(source, split)
        if changed:
            logger.info(
                "%s is scored again on %s: %s changed since the scores in %s were made",
                source.name,
                split,
                " and ".join(changed),
                place,
            )
            return False
        try:
            read_system(place)  # as it is read when scores are combined, where damage would be an end
        except DataError as error:
            logger.warning("%s is scored again on %s: %s", source.name, split, error)
            return False
        logger.info("%s: scores on %s are there already (%s)", source.name, split, place)
        return True

    def score_model(self, source: Source, wanted: dict[str, dict[str, Any]]) -> None:
        """Load a model and score it on splits; the first process writes what comes of it."""
        model, origin = self.open(source, check_valid="valid" in wanted)
        choice = self.config.evaluation
        for split, what in wanted.items():
            logger.info("scoring %s on %s", source.name, split)
            scored = score_split(split, model, self.config, self.data_dir, self.world)
            if scored is None:
                continue
            suffix = folder_suffix(choice.amp, windowing(choice, model.loss))
            write_evaluation(
                self.place(source, split),
                scored.scores,
                scored.labels,
                info={
                    "title": source.name,
                    "split": split,
                    **origin,
                    "weights": origin["weights"] + suffix,
                    **scored.facts,
                    "scored": what,
                    "provenance": collect_provenance(),
                },
                zero_without_positives=choice.zero_without_positives,
            )

    def open(self, source: Source, check_valid: bool) -> tuple[TrainedModel, dict[str, Any]]:
        """A member's model on this process' device, and what an evaluation keeps of where it comes from.

        check_valid: whether valid must be none of the clips that it was trained on.
        """
        if source.choice is None:
            model = load_model(source.path, self.world.device)
            check_fold(folds_behind(source.path), self.data_dir)
            if check_valid and self.world.is_main:
                logger.warning(
                    "%s does not say which clips it was trained on: if those of valid are among them, what "
                    "is found on valid favours it",
                    source.path,
                )
            return model, describe_package(source.path)
        chosen = choose_weights(source.path, source.choice)
        if self.world.is_main:
            warn_of_unmeasured_weights(chosen)
        model = chosen_model(chosen, source.path, self.world.device)
        check_fold(chosen.folds, self.data_dir)
        if check_valid:
            check_valid_is_held_out(chosen.checkpoint.get("train_data"), model, self.config, self.data_dir)
        origin = describe_chosen(chosen)
        # The folder is not the run's own, beside which names of files would be enough.
        whole = {name: str((source.path / name).absolute()) for name in chosen.files}
        digests = {whole[name]: digest for name, digest in chosen.sha256.items()}
        return model, {
            **origin, "weights": chosen.name, "checkpoints": list(whole.values()), "sha256": digests
        }  # fmt: skip


def scoring_config(ensemble: Ensemble) -> Config:
    """The configuration by which models are scored; features are taken from each model."""
    return Config.model_validate(
        {
            "seed": ensemble.seed,
            "features": {"storage": ensemble.storage},
            "data": {"num_workers": ensemble.num_workers},
            "training": {"tf32": ensemble.tf32},
            "evaluation": ensemble.evaluation.model_dump(),
        }
    )


def describe_package(folder: Path) -> dict[str, Any]:
    """What an evaluation keeps of an exported or imported model."""
    info = read_description(folder).get("info") or {}
    file = str((folder / "model.safetensors").absolute())
    of_what = ", ".join(str(Path(name).name) for name in info.get("checkpoints") or ())
    return {
        "weights": folder.name,
        "weights_in_words": f"packed model {folder}" + (f", made of {of_what}" if of_what else ""),
        "checkpoints": [file],
        "sha256": {file: file_digest(Path(file))},
    }


def stamp(path: Path, known: dict[str, Any]) -> dict[str, Any] | None:
    """Size, time and digest of a file, which is not read again while size and time are the known ones."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    before = known.get(str(path.absolute())) or {}
    now = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    if all(before.get(name) == value for name, value in now.items()) and "sha256" in before:
        return before
    return {**now, "sha256": file_digest(path)}


def without_times(part: Any) -> Any:
    """A part of what was scored without the files' times, which a copy changes."""
    if not isinstance(part, dict):
        return part
    return {name: without_times(value) for name, value in part.items() if name != "mtime_ns"}
