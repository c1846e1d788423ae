"""Prepare a user's own corpus: a CSV that lists clips, or a folder for each class."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from audiotag.configcorpus import MyDataCorpus
from audiotag.corpora.arraytask import ArrayTask
from audiotag.corpora.classes import (
    LabelReader,
    detect_task,
    infer_table,
    read_table,
    warn_of_classes_without_clips,
    warn_of_twins,
)
from audiotag.corpora.classfolders import read_class_folders
from audiotag.corpora.csvlist import labels_path, list_path, read_list
from audiotag.corpora.entries import Entry, name_clips
from audiotag.corpora.holdout import stratified_holdout
from audiotag.corpora.preparation import Listed, Part, prepare_splits
from audiotag.corpora.probe import is_utf8
from audiotag.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


def prepare_mydata(
    manifests_dir: Path, settings: MyDataCorpus, *, num_jobs: int = 1, task: ArrayTask | None = None
) -> None:
    """Run stage 1 on a user's own corpus.

    Args:
        manifests_dir: where cuts, labels, skipped clips and coverage go.
        settings: the configuration's `corpus` section.
        num_jobs: processes that open audio files.
        task: only open the share of this task of a job array, and remember what is in it.
    """
    root, entries = read_entries(settings)
    if settings.labels is None:
        table = infer_table(entries)
        warn_of_twins(table)
        logger.info("%d classes, inferred from the labels", len(table))
    else:
        path = labels_path(settings.dir, settings.labels)
        table = read_table(path)
        logger.info("%d classes, listed in %s", len(table), path)
    warn_of_repeated_rows(entries)
    tell_of_unlabelled(entries)
    kind = detect_task(entries)
    listed = assign_splits(
        [entry.split for entry in entries],
        list_clips(entries, name_clips(entries, root), LabelReader(table)),
        settings.eval_share,
        settings.valid_seed,
    )
    warn_of_classes_without_clips(table, (clip.labels for clip in listed["train"]))
    warn_of_shared_files(listed)
    prepare_splits(manifests_dir, listed, table, settings, num_jobs=num_jobs, task=task, notes={"task": kind})


def read_entries(settings: MyDataCorpus) -> tuple[Path, list[Entry]]:
    """The folder that paths are relative to, and all clips that the corpus names."""
    if settings.dir is None:
        raise ConfigError(
            "corpus.dir is not set: name the folder or CSV in db.sh (MYDATA) or with --set corpus.dir=PATH"
        )
    path = Path(os.path.normpath(Path(settings.dir).absolute()))
    if not path.exists():
        raise DataError(f"corpus not found: {path} (corpus.dir)")
    if path.is_file() and settings.list is not None:
        raise ConfigError(f"corpus.dir is the file {path}, so corpus.list = {settings.list} has no meaning")
    clip_list = list_path(settings.dir, settings.list)
    if clip_list is None:
        return path, read_class_folders(path)
    entries = read_list(clip_list)
    if not entries:
        raise DataError(f"{clip_list} lists no clips")
    return clip_list.parent, entries


def warn_of_repeated_rows(entries: Sequence[Entry]) -> None:
    """Say when clips are listed again, as lists with one row for each label do."""
    repeated = len(entries) - len({entry.place for entry in entries})
    if repeated:
        logger.warning(
            "%d of %d rows list a clip again and are skipped: put all labels of a clip into one row, "
            "separated by semicolons",
            repeated,
            len(entries),
        )


def tell_of_unlabelled(entries: Sequence[Entry]) -> None:
    """Say how many clips do not count as negatives of all classes but their labels."""
    partly = [entry for entry in entries if entry.unlabelled]
    if partly:
        classes = {label for entry in partly for label in entry.unlabelled}
        logger.info(
            "unlabelled: of %d of %d clips it is not known whether they have some of %d classes",
            len(partly),
            len(entries),
            len(classes),
        )


def list_clips(entries: Sequence[Entry], ids: Sequence[str], reader: LabelReader) -> list[Listed]:
    """The entries with class indices, and with what is wrong with them before any file is opened."""
    clips = []
    for entry, clip_id in zip(entries, ids, strict=True):
        path, problem = entry.path, reader.problem(entry.labels, entry.unlabelled)
        if not is_utf8(path):
            path, problem = "", "bad name: the path is not UTF-8; rename the file"
        elif not Path(path).is_file():
            path, problem = "", f"missing: {path}"
        part = Part(entry.start_s, entry.end_s)
        labels, unlabelled = reader.read(entry.labels), reader.read(entry.unlabelled)
        clips.append(Listed(clip_id, path, labels, part, problem, unlabelled))
    return clips


def assign_splits(
    splits: Sequence[str | None], clips: Sequence[Listed], eval_share: float, seed: int
) -> dict[str, list[Listed]]:
    """The clips of each split, sorted by id; where none is named for eval, a share is held out for it.

    Held out are clips that the corpus assigns to no split, or training clips where it assigns all.
    """
    order = sorted(range(len(clips)), key=lambda index: clips[index].id)
    final = [split or "train" for split in splits]
    if "eval" not in splits:
        pool_split = None if None in splits else "train"
        pool = [index for index in order if splits[index] == pool_split and not clips[index].problem]
        for index in choose_eval([clips[index] for index in pool], eval_share, seed):
            final[pool[index]] = "eval"
    listed: dict[str, list[Listed]] = {"train": [], "valid": [], "eval": []}
    for index in order:
        listed[final[index]].append(clips[index])
    if not listed["train"]:
        raise DataError("no clip is left to train on: the corpus assigns all to valid or eval")
    if not listed["valid"]:
        del listed["valid"]
    return listed


def choose_eval(pool: Sequence[Listed], share: float, seed: int) -> list[int]:
    """The positions of the clips that are held out for evaluation."""
    if share == 0:
        raise DataError(
            "no clip is assigned to eval, and corpus.eval_share is 0: assign some, or have a share held out "
            "(to select and evaluate on the same clips, assign these to eval and set corpus.valid=eval)"
        )
    # Parts of one recording in two splits would be a leak.
    number_of_file: dict[str, int] = {}
    files = [number_of_file.setdefault(clip.path or clip.id, len(number_of_file)) for clip in pool]
    is_held_out = stratified_holdout([clip.labels for clip in pool], share, seed, groups=files)
    held_out = is_held_out.nonzero()[0].tolist()
    if not held_out:
        raise DataError(
            "no clip is assigned to eval, and none can be held out without taking a label's last one: assign "
            "some clips to eval, or list more"
        )
    logger.info("eval: %d of %d clips, held out by label", len(held_out), len(pool))
    return held_out


def warn_of_shared_files(listed: dict[str, list[Listed]]) -> None:
    """Say when parts of one recording are in several splits: they sound alike."""
    splits_of_file: dict[str, set[str]] = {}
    for split, clips in listed.items():
        for clip in clips:
            if clip.path:
                splits_of_file.setdefault(clip.path, set()).add(split)
    shared = [path for path, splits in splits_of_file.items() if len(splits) > 1]
    if shared:
        logger.warning("%d files have parts in several splits, such as %s", len(shared), shared[0])
