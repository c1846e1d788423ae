"""From members to the results of an ensemble: models are scored, scores read, combined, measured, written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from audiotag.atomic import atomic_write
from audiotag.configensemble import Ensemble
from audiotag.distributed import World
from audiotag.errors import ConfigError, DataError
from audiotag.evaluation.conditions import folder_suffix
from audiotag.evaluation.ensemble import (
    MemberScores,
    beside,
    check_other_clips,
    given_weights,
    label_table,
    match,
    merged_info,
    read_member,
    recorded_split,
)
from audiotag.evaluation.ensemblemeasures import cumulate, describe_members, measure
from audiotag.evaluation.ensembletext import cumulative_table, describe_ensemble, gain_in_words, members_table
from audiotag.evaluation.mixture import mix
from audiotag.evaluation.mixtureweights import fit_weights
from audiotag.evaluation.results import write_evaluation
from audiotag.evaluation.scores import Scores
from audiotag.labels import LabelTable
from audiotag.prediction.members import Source
from audiotag.prediction.memberscores import ModelScorer
from audiotag.provenance import collect_provenance
from audiotag.training.loaders import windowing

logger = logging.getLogger(__name__)

Places = dict[str, list[Path]]


def find_scores(
    ensemble: Ensemble, sources: Sequence[Source], data_dir: Path, dest: Path, world: World
) -> Places:
    """Where each member's scores lie, by split, once the models among them have been scored."""
    splits = list(ensemble.splits)
    if ensemble.member_weights == "fitted":
        if "valid" in splits:
            raise ConfigError(
                "splits has valid, on which member_weights: fitted are fitted, so that results on it say "
                "nothing: take eval alone, or weights that are not fitted"
            )
        splits.append("valid")
    scorer = ModelScorer(ensemble, data_dir, dest / "members", world)
    places: Places = {split: [] for split in splits}
    for source in sources:
        found = {} if source.kind == "scores" else scorer.score(source, splits)
        for split in splits:
            places[split].append(found.get(split) or scores_place(source, split, ensemble.splits))
    return places


def scores_place(source: Source, split: str, wanted: Sequence[str]) -> Path:
    """Where the scores of a split lie of a member that is scores of one.

    wanted: the splits that are combined; a file that does not say is of eval, where that is one of them.
    """
    if split == "valid" and source.valid_scores is not None:
        return source.valid_scores
    own = recorded_split(source.path) or ("eval" if "eval" in wanted else "valid")
    if own not in wanted:
        raise DataError(
            f"{source.path} has the scores of {own}, but {' and '.join(wanted)} is to be combined: name its "
            "evaluation of that, or set splits (--split)"
        )
    return source.path if own == split else beside(source.path, split)


def combine_split(
    split: str,
    ensemble: Ensemble,
    sources: Sequence[Source],
    places: Places,
    dest: Path,
    epochs: tuple[int, int] | None = None,
) -> str:
    """Combine the members' scores of a split and write the evaluation; returns the tables as text.

    Args:
        split: what is combined.
        ensemble: how.
        sources: the members.
        places: of their scores, as `find_scores` gives them.
        dest: the ensemble's folder.
        epochs: the first and the last, where the members are all epochs of a run between them.
    """
    members, choice = read_members(split, ensemble, sources, places), ensemble.evaluation
    aligned = match(members, common=ensemble.common)
    info = merged_info(members)
    if len(aligned.ids) < max(len(member.system.scores.ids) for member in members):
        info.pop("coverage", None)  # it counts clips that are left out here
    numbers = ensemble.member_weights if isinstance(ensemble.member_weights, list) else None
    weights = given_weights(numbers, len(members))
    weighing = "all alike" if numbers is None else "weights as given"
    if ensemble.member_weights == "fitted":
        fitted_on = match(read_members("valid", ensemble, sources, places), common=ensemble.common)
        check_other_clips(fitted_on.ids, aligned.ids)
        weights = fit_weights(fitted_on.logits, fitted_on.labels, combine=ensemble.combine, fit=ensemble.fit)
        weighing = f"weights fitted on {len(fitted_on.ids):,} clips of valid (best {ensemble.fit})"
        info["selected_on"] = info["selected_on"] or "valid"
    combined = mix(aligned.logits, weights, ensemble.combine)
    parts = measure(
        aligned,
        weights,
        combined,
        # The table of epochs has no intervals.
        resamplings=0 if epochs else choice.bootstrap,
        seed=ensemble.seed,
        zero_without_positives=choice.zero_without_positives,
    )
    described = describe_members(members, parts, ensemble.combine, weighing)
    if epochs:
        described["cumulative"] = cumulate(
            aligned, ensemble.combine, zero_without_positives=choice.zero_without_positives
        )
    name = ensemble_name(ensemble, sources, epochs)
    folder = dest / f"eval_{split}_{name}"
    write_evaluation(
        folder,
        Scores(aligned.ids, combined, aligned.labels),
        label_table(aligned),
        info={
            "title": ensemble.title,
            "split": split,
            "weights": name,
            "weights_in_words": f"mean of the {ensemble.combine} of {len(members)} members, {weighing}",
            **info,
            "ensemble": described,
            "provenance": collect_provenance(),
        },
        zero_without_positives=choice.zero_without_positives,
        bootstrap=choice.bootstrap,
        seed=ensemble.seed,
    )
    with atomic_write(folder / "members.md") as file:
        file.write(describe_ensemble(described) + "\n")
    logger.info("%s, %d clips: written to %s", split, len(aligned.ids), folder)
    table = cumulative_table(described) if epochs else members_table(described)
    return "\n".join([table.text(), *([gain_in_words(described["gain"])] if described["gain"] else [])])


def read_members(
    split: str, ensemble: Ensemble, sources: Sequence[Source], places: Places
) -> list[MemberScores]:
    """The members' scores of a split."""
    labels = LabelTable.read(ensemble.labels) if ensemble.labels else None
    paths = zip(sources, places[split], strict=True)
    return [read_member(source.name, path, split, labels) for source, path in paths]


def ensemble_name(ensemble: Ensemble, sources: Sequence[Source], epochs: tuple[int, int] | None) -> str:
    """What tells the evaluation of an ensemble from those of others of the same members."""
    name = f"epochs{epochs[0]}-{epochs[1]}" if epochs else f"ensemble{len(sources)}"
    name += "-logits" if ensemble.combine == "logits" else ""
    if ensemble.member_weights == "fitted":
        name += f"-fitted-{ensemble.fit}"
    elif ensemble.member_weights != "uniform":
        name += "-weighted"
    if all(source.kind == "scores" for source in sources):
        return name
    return name + folder_suffix(ensemble.evaluation.amp, windowing(ensemble.evaluation, "bce"))
