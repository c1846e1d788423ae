"""Where the `valid` split comes from: the corpus itself, the evaluation clips, or clips held out of train."""

from __future__ import annotations

from collections import Counter

from audiotag.configcorpus import Preparation
from audiotag.corpora.duplicates import recordings_of
from audiotag.corpora.holdout import stratified_holdout
from audiotag.corpora.listing import Listed
from audiotag.corpora.manifests import SplitReport
from audiotag.errors import DataError


def choose_valid(
    reports: dict[str, SplitReport], settings: Preparation, listed: dict[str, list[Listed]]
) -> bool:
    """Add `valid` to the reports unless it is there or not wanted; True if it was held out of train."""
    if "valid" in reports:
        return False
    if settings.valid == "eval":
        of_eval = reports["eval"]
        reports["valid"] = SplitReport(
            "valid", of_eval.clips, of_eval.skipped, of_eval.listed_labels, same_as="eval"
        )
        return False
    if settings.valid == "eval_tenth":
        reports["valid"] = first_tenth(reports["eval"], listed["eval"])
        return False
    if settings.valid_share == 0:
        return False
    reports["valid"] = split_off_valid(reports["train"], settings.valid_share, settings.valid_seed)
    return True


def first_tenth(of_eval: SplitReport, listed: list[Listed]) -> SplitReport:
    """The clips of the first tenth of a list, present or not; they stay where they are, too."""
    rows = listed[: len(listed) // 10]
    ids = {row.id for row in rows}
    clips = [clip for clip in of_eval.clips if clip.id in ids]
    skipped = [skipped for skipped in of_eval.skipped if skipped.id in ids]
    if not clips:
        raise DataError(
            f"corpus.valid is eval_tenth, but none of the first {len(rows)} of {len(listed)} clips of eval "
            "can be used: set it to holdout or eval"
        )
    classes = Counter(index for row in rows for index in set(row.labels))
    return SplitReport("valid", clips, skipped, classes, part_of="eval")


def split_off_valid(train: SplitReport, share: float, seed: int) -> SplitReport:
    """Move a stratified part of the training clips to a split of their own.

    Clips of the same recording, and copies of the same audio, stay on one side.
    """
    held_out = stratified_holdout(
        [clip.labels for clip in train.clips], share, seed, groups=recordings_of(train.clips)
    )
    if not held_out.any():
        raise DataError(
            "no clip can be held out of train as valid without taking a label's last one (parts of one "
            "recording stay together): set corpus.valid_share to 0, or list more clips"
        )
    valid = SplitReport("valid")
    kept = []
    for clip, is_valid in zip(train.clips, held_out, strict=True):
        if is_valid:
            valid.clips.append(clip)
            valid.listed_labels.update(set(clip.labels))
            train.listed_labels.subtract(set(clip.labels))
        else:
            kept.append(clip)
    train.clips = kept
    return valid
