"""Teachers: trained models whose scores a student learns, several of them as one.

Shapes: B clips, T frames, F mel bins, C classes of the student, E width of a teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from audiotag.config import Config
from audiotag.distillation.softening import exclusive_log_odds, mean_log_odds
from audiotag.distributed import World
from audiotag.errors import CheckpointError, ConfigError
from audiotag.evaluation.scoring import AMP_DTYPES
from audiotag.export.package import TrainedModel, load_model
from audiotag.interop.formats import find_format, read_model
from audiotag.interop.hub import find_model
from audiotag.interop.importing import import_model
from audiotag.interop.sourcemodel import Hints
from audiotag.labels import LabelTable
from audiotag.places import of_this_fold, resolve_place
from audiotag.prediction.model import choice_of_run, chosen_model
from audiotag.provenance import weights_digest
from audiotag.training.averaging import choose_weights
from audiotag.training.checkpoint import holds_run
from audiotag.training.otherfolds import Fold, folds_behind_all, refuse_other_folds
from audiotag.training.weightchoice import choose_files

KEY = "distillation.teachers"


@dataclass(frozen=True)
class Teacher:
    """One trained model, frozen and in eval mode.

    Args:
        place: where it was found.
        model: the tagger, with the name of its loss.
        columns: its output for each of the student's classes.
        digest: of its weights, settings and classes: another one gives other scores.
        folds: that its weights come from.
    """

    place: Path
    model: TrainedModel
    columns: list[int]
    digest: str
    folds: frozenset[Fold] = frozenset()

    @property
    def preset(self) -> str:
        """Of the features that it takes."""
        return self.model.config["features"]["preset"]

    @property
    def exclusive(self) -> bool:
        """Whether it says that one of the classes is right, and which."""
        return self.model.loss == "ce"

    @torch.no_grad()
    def __call__(self, features: Tensor, lengths: Tensor, amp: str) -> tuple[Tensor, Tensor]:
        """Logits (B,C), log odds where the classes exclude each other, and embeddings (B,E), in float32.

        Args:
            features: (B,T,F) of its own front end.
            lengths: (B,) in frames.
            amp: precision of the forward pass: off, fp16 or bf16.
        """
        dtype = AMP_DTYPES[amp]
        with torch.autocast(features.device.type, dtype=dtype, enabled=dtype is not None):
            logits, embeddings = self.model.tagger(features, lengths, pooled=True)
        logits = logits.float()
        if self.exclusive:
            logits = exclusive_log_odds(logits)
        return logits[:, self.columns], embeddings.float()


class Teachers:
    """One or several teachers that speak with one voice: the weighted mean of their probabilities.

    Args:
        members: the teachers.
        weights: of each in the mean; None for all alike.
    """

    def __init__(self, members: Sequence[Teacher], weights: Sequence[float] | None = None) -> None:
        self.members = list(members)
        weights = weights or [1.0] * len(self.members)
        self.shares = [weight / sum(weights) for weight in weights]

    @property
    def exclusive(self) -> bool:
        """Whether all say that one of the classes is right, and which."""
        return all(member.exclusive for member in self.members)

    @property
    def folds(self) -> set[Fold]:
        """The folds that their weights come from."""
        return {fold for member in self.members for fold in member.folds}

    @property
    def width(self) -> int:
        """Of the embeddings."""
        return self.members[0].model.tagger.encoder.output_dim

    def describe(self) -> list[dict[str, object]]:
        """Which models they are, and their shares."""
        pairs = zip(self.members, self.shares, strict=True)
        return [{"digest": member.digest, "share": share} for member, share in pairs]

    def to(self, device: torch.device) -> Teachers:
        """Move all of them."""
        for member in self.members:
            member.model.tagger.to(device)
        return self

    def __call__(self, heard: Sequence[tuple[Tensor, Tensor]], amp: str) -> tuple[Tensor, Tensor]:
        """Their common logits (B,C) and the embeddings (B,E) of the first.

        Args:
            heard: features and lengths for each of them.
            amp: precision of the forward pass.
        """
        said = [member(*inputs, amp) for member, inputs in zip(self.members, heard, strict=True)]
        return mean_log_odds([logits for logits, _ in said], self.shares), said[0][1]


def open_teachers(config: Config, labels: LabelTable, world: World, here: Fold | None = None) -> Teachers:
    """The teachers of a configuration, on the CPU.

    Args:
        config: the configuration, with a section `distillation`.
        labels: the student's classes.
        world: the processes, the first of which fetches what is on the hub.
        here: the fold that the student will be evaluated on, whose clips no teacher may have learnt.
    """
    section = config.distillation
    world.gather([locate_teacher(name, here) for name in section.teachers] if world.is_main else None)
    members = []
    for name in section.teachers:
        place = find_teacher(name, here)
        model = open_teacher(place, labels)
        model.tagger.requires_grad_(False)
        folds = frozenset(folds_behind_all(files_of(place)))
        columns = teacher_columns(labels, model, place)
        members.append(Teacher(place, model, columns, model_digest(model), folds))
    return Teachers(members, section.weights)


def find_teacher(name: str, here: Fold | None) -> Path:
    """The file or folder of a teacher, which is refused where it is of another fold than the student's."""
    place = locate_teacher(name, here)
    refuse_other_folds(here, files_of(place), KEY)
    return place


def files_of(place: Path) -> list[Path]:
    """The checkpoints that the weights of a teacher come from, or what else it is."""
    if not holds_run(place):
        return [place]
    try:
        return choose_files(place, choice_of_run(place)).paths
    except (ConfigError, CheckpointError) as error:
        raise type(error)(f"{KEY}: {place} is a run, of whose weights none can be taken: {error}") from None


def locate_teacher(name: str, here: Fold | None = None) -> Path:
    """The file or folder of a teacher, fetched if it is on the hub."""
    place = of_this_fold(resolve_place(name, KEY), here and here.number)
    path = Path(place).expanduser()
    # Where its folder is here, a name such as exp/ast_tiny is hardly meant for the hub.
    if not path.exists() and path.parent.is_dir():
        raise ConfigError(
            f"{KEY}: {path} is not there; name a checkpoint, the folder of a run or of a model, or a model "
            "of the Hugging Face hub"
        )
    return find_model(place, KEY, "auto")


def open_teacher(place: Path, labels: LabelTable) -> TrainedModel:
    """The model of a run's folder, of the weights that its configuration chooses, or of a file or folder in
    any format that can be imported.

    Args:
        place: where it lies.
        labels: the student's classes, which give MIDs to those that have only names.
    """
    if holds_run(place):
        return chosen_model(choose_weights(place, choice_of_run(place)), place)
    if find_format(place) == "audiotag":
        return load_model(place)
    source = read_model(place, "auto", Hints())
    if source.labels is None:
        raise ConfigError(
            f"{KEY}: {place} does not name its classes: make a folder of it with import_checkpoint and "
            "--labels, and take that"
        )
    # Other toolkits may know only the names of classes, by which the MIDs are found.
    model, _ = import_model(source, labels if source.num_classes == len(labels) else None, {})
    return model


def teacher_columns(labels: LabelTable, model: TrainedModel, place: Path) -> list[int]:
    """A teacher's output for each of the student's classes, found by their MIDs."""
    known = model.tagger.labels.index_of_mid
    missing = [label for label in labels if label.mid not in known]
    if missing:
        raise CheckpointError(
            f"{KEY}: {place} does not know {len(missing)} of the {len(labels)} classes, among them "
            f"{missing[0].mid} ({missing[0].name}): take a teacher that knows all of them"
        )
    return [known[label.mid] for label in labels]


def model_digest(model: TrainedModel) -> str:
    """A hash of all that a model's scores depend on."""
    description = {**model.config, "loss": model.loss, "labels": model.tagger.labels.to_rows()}
    return weights_digest(model.tagger.state_dict(), description)
