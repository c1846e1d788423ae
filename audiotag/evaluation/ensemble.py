"""The members of an ensemble: their scores read and matched, and what their evaluations say.

Clips are matched by id and classes by MID, so that members may have any order of both.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiotag.errors import ConfigError, DataError
from audiotag.evaluation.comparison import Aligned, System, align, read_system
from audiotag.evaluation.results import read_evaluation
from audiotag.labels import Label, LabelTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemberScores:
    """The scores of a member on one split.

    info: of its evaluation; empty for a score file alone. folder: of the evaluation.
    """

    name: str
    system: System
    info: dict[str, Any]
    folder: Path


def read_member(name: str, path: Path, split: str, labels: LabelTable | None = None) -> MemberScores:
    """A member's scores in a score file or an evaluation folder.

    labels: the classes of score files that lie in no evaluation folder.
    """
    folder = path if path.is_dir() else path.parent
    info = recorded_info(path)
    system = replace(read_system(path), name=name)
    if system.classes is None and labels is not None:
        if len(labels) != system.scores.logits.shape[1]:
            raise DataError(
                f"{path} has scores of {system.scores.logits.shape[1]} classes, but the label list has "
                f"{len(labels)}"
            )
        system = replace(system, classes={label.mid: label.name for label in labels})
    if (info.get("split") or split) != split:
        raise DataError(f"{path} has the scores of {info['split']}, not of {split}")
    return MemberScores(name, system, info, folder)


def recorded_info(path: Path) -> dict[str, Any]:
    """What the evaluation knows that a score file belongs to; nothing without one."""
    folder = path if path.is_dir() else path.parent
    return read_evaluation(folder).info if (folder / "metrics.json").exists() else {}


def recorded_split(path: Path) -> str | None:
    """The split whose scores these are; None where nothing says it."""
    return recorded_info(path).get("split")


def beside(path: Path, split: str) -> Path:
    """The evaluation of the same weights on another split, beside an evaluation folder or the file in it."""
    folder = path if path.is_dir() else path.parent
    _, _, weights = folder.name.removeprefix("eval_").partition("_")
    other = folder.with_name(f"eval_{split}_{weights}")
    if folder.name.startswith("eval_") and (other / "metrics.json").exists():
        infos = [read_evaluation(one).info for one in (folder, other)]
        if infos[0].get("sha256") == infos[1].get("sha256"):
            return other
        raise DataError(f"{other} is of other weights than {folder}: evaluate both again (stage 6)")
    raise DataError(
        f"there are no scores of {split} beside {path}: evaluate that split, too (stage 6, "
        f"evaluation.splits), or name them as the member's {split}_scores"
    )


def match(members: Sequence[MemberScores], *, common: bool = False) -> Aligned:
    """The members' scores with the same clips and classes in the same order, that of the first one.

    common: of what all of them have; otherwise what any of them lacks is an error.
    """
    unnamed = [member.name for member in members if member.system.classes is None]
    if unnamed and len(unnamed) < len(members):
        raise DataError(
            f"{unnamed[0]} does not say which classes its scores are of, and others do: name its label list "
            "(labels), or give the evaluation folder"
        )
    if unnamed:
        logger.warning(
            "no member says which classes its scores are of: they are taken in the order they have"
        )
    aligned = align([member.system for member in members], common=common)
    for what, own, kept in (
        ("clips", members[0].system.scores.ids, aligned.ids),
        ("classes", members[0].system.classes or (), aligned.class_names if not unnamed else ()),
    ):
        if len(kept) < len(own):
            logger.warning("%d of %d %s of %s are in all members", len(kept), len(own), what, members[0].name)
    return aligned


def label_table(aligned: Aligned) -> LabelTable:
    """The classes of matched scores; made-up MIDs where none are known."""
    mids = aligned.mids or [f"class_{index}" for index in range(len(aligned.class_names))]
    pairs = enumerate(zip(mids, aligned.class_names, strict=True))
    return LabelTable([Label(index, mid, name) for index, (mid, name) in pairs])


def check_other_clips(fitted_on: Sequence[str], measured_on: Sequence[str]) -> None:
    """Refuse weights that were fitted on clips that the ensemble is measured on."""
    if both := set(fitted_on) & set(measured_on):
        raise DataError(
            f"{len(both)} of {len(measured_on)} clips that the ensemble is measured on, such as {min(both)}, "
            "are among those that its weights are to be fitted on: fit them on other clips (in a recipe with "
            "corpus.valid holdout), or take member_weights uniform"
        )


def given_weights(numbers: Sequence[float] | None, count: int) -> NDArray[np.float64]:
    """Weights with a sum of 1 from any numbers; None weighs all alike."""
    weights = np.ones(count) if numbers is None else np.array(numbers, dtype=np.float64)
    if len(weights) != count or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise ConfigError(f"member_weights: expected {count} numbers from 0 on, not all 0, found {numbers}")
    return weights / weights.sum()


def merged_info(members: Sequence[MemberScores]) -> dict[str, Any]:
    """What members' evaluations say that holds for an ensemble of them.

    Checkpoints get whole paths, since they lie in different folders; conditions that differ are left out.
    """
    digests: dict[str, str | None] = {}
    for member in members:
        known = member.info.get("sha256") or {}
        for name in member.info.get("checkpoints") or ():
            digests[str((member.folder.parent / name).absolute())] = known.get(name)
    selected = {member.info.get("selected_on") for member in members}
    merged = {
        "checkpoints": list(digests),
        "sha256": {file: digest for file, digest in digests.items() if digest},
        "selected_on": next((split for split in ("eval", "valid") if split in selected), None),
    }
    for key in ("precision", "coverage"):
        first = members[0].info.get(key)
        if first and all(member.info.get(key) == first for member in members):
            merged[key] = first
    if "coverage" not in merged:
        of_first = [member.info["coverage"] for member in members if member.info.get("coverage")]
        merged |= {"coverage": of_first[0]} if of_first else {}
    return merged
