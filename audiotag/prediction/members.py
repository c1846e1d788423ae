"""What a member of an ensemble is: scores that are there already, weights of a run, or a packed model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from audiotag.configensemble import Ensemble, Member
from audiotag.configevaluation import WeightChoice
from audiotag.errors import ConfigError, DataError
from audiotag.places import resolve_place
from audiotag.prediction.model import choice_of_run
from audiotag.training.checkpoint import EPOCH_NAME, STEP_NAME
from audiotag.training.weightchoice import choose_files

Kind = Literal["scores", "run", "package"]


@dataclass(frozen=True)
class Source:
    """Where a member's scores come from.

    Args:
        name: unlike all others'.
        kind: `scores`: `path` is a score file or an evaluation folder; `run`: the folder of a run, of whose
            weights `choice` takes some; `package`: the folder of an exported or imported model.
        path: of it.
        choice: of weights, for a run alone.
        valid_scores: for scores alone, those of the same model on valid, where they are named.
    """

    name: str
    kind: Kind
    path: Path
    choice: WeightChoice | None = None
    valid_scores: Path | None = None


def find_members(ensemble: Ensemble, weight_overrides: Sequence[str] = ()) -> list[Source]:
    """The members of a configuration; an error for one that is nothing that can be a member.

    weight_overrides: which weights of runs are taken, in the form of `--set evaluation.KEY=VALUE`, by members
        that do not choose themselves.
    """
    sources: list[Source] = []
    for number, member in enumerate(ensemble.members):
        source = find_member(member, f"members.{number}", weight_overrides)
        for other in sources:
            if (source.kind, source.path, source.choice) == (other.kind, other.path, other.choice):
                raise ConfigError(
                    f"members.{number}.path: {source.path} is a member already, as {other.name}; "
                    "member_weights makes one count more than another"
                )
            if source.name == other.name:
                raise ConfigError(f"members.{number}: two members are called {source.name}; give one a name")
        sources.append(source)
    return sources


def find_member(member: Member, key: str, weight_overrides: Sequence[str]) -> Source:
    """The source that a member of the configuration names."""
    path = Path(resolve_place(member.path, f"{key}.path"))
    kind = kind_of(path, f"{key}.path")
    name = member.name or str(path)
    check_keys(member, key, kind, path)
    if kind == "scores":
        valid = member.valid_scores and Path(resolve_place(member.valid_scores, f"{key}.valid_scores"))
        if valid and kind_of(valid, f"{key}.valid_scores") != "scores":
            raise ConfigError(f"{key}.valid_scores: {valid} is no score file or evaluation folder")
        return Source(name, kind, path, valid_scores=valid or None)
    if kind == "package":
        return Source(name, kind, path)
    if path.is_file():
        return Source(name, kind, path.parent, WeightChoice(checkpoints=[path.name], weights=member.weights))
    choice = choice_of_run(path, member if member.chooses_weights else None, weight_overrides)
    return Source(member.name or f"{path} ({choose_files(path, choice).name})", kind, path, choice)


def check_keys(member: Member, key: str, kind: Kind, path: Path) -> None:
    """Refuse keys that say nothing about a member of this kind."""
    choosing = member.model_fields_set & WeightChoice.model_fields.keys()
    if kind == "run" and path.is_file():
        choosing -= {"weights"}
    if choosing and (kind != "run" or path.is_file()):
        raise ConfigError(
            f"{key}.{min(choosing)} chooses among the weights of a run, but {path} is not the folder of one: "
            "leave it out, or name the run's folder"
        )
    if member.valid_scores is not None and kind != "scores":
        raise ConfigError(
            f"{key}.valid_scores: {path} is a model, which is scored on valid itself; leave it out"
        )


def kind_of(path: Path, key: str) -> Kind:
    """What lies at a path."""
    if (path.suffix == ".npz" and path.is_file()) or (path / "scores.npz").is_file():
        return "scores"
    if path.is_file():
        return "run"
    if not path.is_dir():
        raise DataError(f"{key}: {path} is not there; stages 5 and 6 make runs and their scores")
    if (path / "model.safetensors").is_file():
        return "package"
    names = [item.name for item in path.iterdir()]
    if "config.yaml" in names or any(
        re.fullmatch(rule, name) for rule in (EPOCH_NAME, STEP_NAME) for name in names
    ):
        return "run"
    raise DataError(
        f"{key}: {path} holds no scores.npz (evaluation), no epoch-<n>.pt (run) and no model.safetensors "
        "(exported or imported model)"
    )
