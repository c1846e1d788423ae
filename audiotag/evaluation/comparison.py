"""Two or more systems on the same clips: what differs, and whether the choice of clips explains it.

Clips are matched by id. Classes are matched by MID where every score file lies beside a per_class.csv, as
in an evaluation folder, and by position otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audiotag.errors import ConfigError, DataError
from audiotag.evaluation.bootstrap import LEAST_SHARE, Difference, Draws, paired_difference, resample
from audiotag.evaluation.metrics import Metrics, compute_metrics
from audiotag.evaluation.perclass import read_per_class
from audiotag.evaluation.resampling import Resampled
from audiotag.evaluation.results import read_evaluation
from audiotag.evaluation.scores import Scores


@dataclass(frozen=True)
class System:
    """The scores of one system.

    classes: display name by MID in the order of the columns. zero_without_positives: whether its evaluation
    counts classes without positives as AP 0. Both None where the file does not say.
    """

    name: str
    scores: Scores
    classes: dict[str, str] | None
    zero_without_positives: bool | None = None


@dataclass(frozen=True)
class Aligned:
    """Systems with the same clips and classes in the same order.

    mids: of the classes; None where these were matched by position. logits: (N,C) of each; labels: (N,C), NaN
    where any system's are.
    """

    names: list[str]
    ids: list[str]
    class_names: list[str]
    logits: list[np.ndarray]
    labels: np.ndarray
    mids: list[str] | None = None


@dataclass(frozen=True)
class Comparison:
    """How another system differs from the first: by metric, and in the AP of every class.

    class_differences: one for each class; NaN values where the class has no positives.
    """

    first: Metrics
    other: Metrics
    differences: dict[str, Difference]
    class_differences: list[Difference]


def read_system(path: Path) -> System:
    """The scores in an evaluation folder or a score file."""
    file = path / "scores.npz" if path.is_dir() else path
    scores = Scores.load(file)
    table = file.with_name("per_class.csv")
    zero, results = None, None
    if file.with_name("metrics.json").exists():
        evaluation = read_evaluation(file.parent)
        zero, results = evaluation.zero_without_positives, evaluation.classes
    elif table.exists():
        results = read_per_class(table)
    if results is None:
        return System(str(path), scores, None)
    classes = {one.mid: one.name for one in results}
    if len(classes) != scores.logits.shape[1]:
        raise DataError(
            f"{table} has {len(classes)} classes, but the scores beside it {scores.logits.shape[1]}: "
            "they do not belong together; run stage 6 again"
        )
    return System(str(path), scores, classes, zero)


def agreed_zero_without_positives(systems: Sequence[System]) -> bool:
    """How the systems' evaluations count classes without positives; False where none says."""
    said = {system.zero_without_positives: system.name for system in systems}
    if True in said and False in said:
        raise ConfigError(
            f"{said[True]} counts classes without positives as AP 0 in mAP, {said[False]} leaves them out: "
            "say how to compare them, with --zero-without-positives or --no-zero-without-positives"
        )
    return True in said


def align(systems: Sequence[System], *, common: bool = False) -> Aligned:
    """Systems brought to the first one's order of clips and classes.

    common: compare what all of them have; otherwise clips or classes that any of them lacks are an error.
    """
    first = systems[0]
    ids = shared([system.scores.ids for system in systems], systems, "clips", common)
    by_mid = all(system.classes is not None for system in systems)
    if by_mid:
        mids = shared([list(system.classes) for system in systems], systems, "classes", common)
        class_names = [first.classes[mid] for mid in mids]
    else:
        for system in systems[1:]:
            if system.scores.logits.shape[1] != first.scores.logits.shape[1]:
                raise DataError(
                    f"{first.name} has {first.scores.logits.shape[1]} classes and {system.name} "
                    f"{system.scores.logits.shape[1]}: without a per_class.csv beside each score file they "
                    "cannot be matched; give evaluation folders"
                )
        class_names = [f"class {index}" for index in range(first.scores.logits.shape[1])]
    logits, labels = [], None
    for system in systems:
        rows = positions(system.scores.ids, ids)
        columns = positions(list(system.classes), mids) if by_mid else np.arange(len(class_names))
        where = np.ix_(rows, columns)
        logits.append(system.scores.logits[where])
        own = system.scores.labels[where].astype(np.float32)
        labels = own if labels is None else merged(labels, own, ids, class_names, first.name, system.name)
    names = [system.name for system in systems]
    return Aligned(names, ids, class_names, logits, labels, mids if by_mid else None)


def shared(keys: list[list[str]], systems: Sequence[System], what: str, common: bool) -> list[str]:
    """The keys that all have, in the first one's order; a DataError when some lack some, unless `common`."""
    everywhere, anywhere = set(keys[0]).intersection(*keys[1:]), set().union(*keys)
    for own, system in zip(keys, systems, strict=True):
        lacking = anywhere.difference(own)
        if lacking and not common:
            raise DataError(
                f"{system.name} lacks {len(lacking)} {what} that another has, such as {min(lacking)} "
                f"({len(everywhere)} {what} are in all): evaluate the same {what}, or compare those that all "
                "have with --common"
            )
    if not everywhere:
        raise DataError(f"{' and '.join(system.name for system in systems)} have no {what} in common")
    return [key for key in keys[0] if key in everywhere]


def positions(keys: list[str], wanted: list[str]) -> np.ndarray:
    """Where each wanted key lies."""
    place = {key: index for index, key in enumerate(keys)}
    return np.array([place[key] for key in wanted])


def merged(
    labels: np.ndarray, own: np.ndarray, ids: list[str], class_names: list[str], first: str, other: str
) -> np.ndarray:
    """Labels that two systems agree on; unknown where either does not know."""
    unknown = np.isnan(labels) | np.isnan(own)
    different = (labels != own) & ~unknown
    if different.any():
        row, column = np.argwhere(different)[0]
        raise DataError(
            f"{first} and {other} have different labels for {different.any(1).sum()} clips, among them "
            f"{ids[row]} ({class_names[column]}): they were scored against different data"
        )
    return np.where(unknown, np.float32(np.nan), labels)


def compare(
    aligned: Aligned, resamplings: int, *, seed: int = 0, zero_without_positives: bool = False
) -> list[Comparison]:
    """Every other system against the first, all under the same resamplings of the clips."""
    options = {"zero_without_positives": zero_without_positives}
    measured = [
        compute_metrics(logits, aligned.labels, ids=aligned.ids, **options) for logits in aligned.logits
    ]
    resampled = [Resampled(logits, aligned.labels, **options) for logits in aligned.logits]
    draws = resample(resampled, len(aligned.ids), resamplings, seed=seed)
    return [
        compare_pair(measured[0], other, draws[0], drawn)
        for other, drawn in zip(measured[1:], draws[1:], strict=True)
    ]


def compare_pair(first: Metrics, other: Metrics, of_first: Draws, of_other: Draws) -> Comparison:
    """The differences of two systems from their metrics and those of the same resamplings."""
    differences = {}
    for name, values in of_first.metrics.items():
        pair = first.summary[name], other.summary[name]
        drawn = np.stack([values, of_other.metrics[name]])
        there = np.isfinite(drawn).all(axis=0)
        if None not in pair and there.mean() >= LEAST_SHARE:
            differences[name] = paired_difference(pair, drawn[:, there])
    class_differences = []
    for index, pair in enumerate(zip(first.ap, other.ap, strict=True)):
        # A rare class may be in none of a resampling's clips.
        there = ~np.isnan(of_first.ap[index])
        drawn = of_first.ap[index][there], of_other.ap[index][there]
        missing = Difference(np.nan, np.nan, np.nan, np.nan)
        class_differences.append(paired_difference(pair, drawn) if there.any() else missing)
    return Comparison(first, other, differences, class_differences)
