"""Prepare a corpus in AudioSet's layout: label list, segment lists, a folder of audio files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from audiotag.corpora.audiofiles import find_audio
from audiotag.corpora.holdout import stratified_holdout
from audiotag.corpora.manifests import (
    Clip,
    Skipped,
    SplitReport,
    cut_of,
    write_cuts,
    write_json,
    write_skipped,
)
from audiotag.corpora.probe import Probe, probe_files
from audiotag.corpora.segments import Segment, read_segments
from audiotag.errors import ConfigError, DataError
from audiotag.labels import LabelTable

logger = logging.getLogger(__name__)

# Cutting tools leave files a little longer than they were asked for.
LENGTH_TOLERANCE_S = 1.0


def prepare_audioset(
    manifests_dir: Path,
    *,
    dir: str | None,
    labels: str,
    train_lists: Sequence[str],
    eval_lists: Sequence[str],
    audio_dir: str,
    valid_share: float,
    valid_seed: int,
    min_duration_s: float,
    max_skip: float,
    num_jobs: int = 1,
) -> None:
    """Write cuts, labels, skipped clips and coverage of train, valid and eval.

    Args:
        manifests_dir: where they go.
        num_jobs: processes that open audio files.
        the others: keys of the configuration's `corpus` section.
    """
    corpus_dir = check_dir(dir)
    table = LabelTable.read(corpus_dir / labels)
    listed = {
        "train": [segment for name in train_lists for segment in read_segments(corpus_dir / name)],
        "eval": [segment for name in eval_lists for segment in read_segments(corpus_dir / name)],
    }
    logger.info("listed: %s", ", ".join(f"{split} {len(rows)}" for split, rows in listed.items()))
    files = find_audio(corpus_dir / audio_dir, [segment for rows in listed.values() for segment in rows])
    probes = probe_files(sorted(files.values()), cache=manifests_dir / "probes.jsonl", num_jobs=num_jobs)

    eval_ids = {segment.id for segment in listed["eval"]}
    reports = {
        split: choose_clips(
            split,
            rows,
            table=table,
            files=files,
            probes=probes,
            min_duration_s=min_duration_s,
            other_ids=eval_ids if split == "train" else set(),
        )
        for split, rows in listed.items()
    }
    for split, report in reports.items():
        write_skipped(manifests_dir / f"skipped_{split}.csv", report.skipped)
    for split, report in reports.items():
        report.check(max_skip, manifests_dir / f"skipped_{split}.csv")
    if valid_share > 0:
        reports["valid"] = split_off_valid(reports["train"], valid_share, valid_seed)
    write_all(manifests_dir, reports, table)


def check_dir(dir: str | None) -> Path:
    """The corpus folder, which somebody has to name."""
    if dir is None:
        raise ConfigError(
            "corpus.dir is not set: name the corpus folder in db.sh or with --set corpus.dir=FOLDER"
        )
    if not Path(dir).is_dir():
        raise DataError(f"corpus folder not found: {Path(dir).absolute()} (corpus.dir)")
    return Path(dir).absolute()


def choose_clips(
    split: str,
    segments: Sequence[Segment],
    *,
    table: LabelTable,
    files: dict[str, str],
    probes: dict[str, Probe],
    min_duration_s: float,
    other_ids: set[str],
) -> SplitReport:
    """The clips that can be used, and the others with reasons; `other_ids` must not be used."""
    report = SplitReport(split)
    seen: set[str] = set()
    for segment in segments:
        known = tuple(table.index_of_mid[mid] for mid in segment.mids if mid in table.index_of_mid)
        report.listed_labels.update(set(known))
        path = files.get(segment.id, "")
        probe = probes.get(path, Probe())
        unknown = [mid for mid in segment.mids if mid not in table.index_of_mid]
        if segment.id in seen:
            reason = "duplicate: the id is listed more than once; the first row counts"
        elif segment.id in other_ids:
            reason = "leak: the id is also listed for eval"
        elif unknown:
            reason = f"unknown label: {', '.join(unknown)} not in the label list"
        elif not path:
            reason = "missing"
        elif probe.problem:
            reason = probe.problem
        elif probe.duration_s < min_duration_s:
            reason = f"too short: {probe.duration_s:.3f} s, corpus.min_duration_s is {min_duration_s:g}"
        else:
            part, reason = part_of_file(segment, probe.duration_s)
            if part is not None:
                report.clips.append(Clip(segment.id, path, probe, known, *part))
        seen.add(segment.id)
        if reason:
            report.skipped.append(Skipped(segment.id, path, reason))
    return report


def part_of_file(segment: Segment, file_s: float) -> tuple[tuple[float, float | None] | None, str | None]:
    """Start and length in seconds of a segment in its file, or a reason why it is not there.

    Files usually hold the segment alone; one that is longer is taken for the whole video.
    """
    length_s = segment.end_s - segment.start_s
    if file_s <= length_s + LENGTH_TOLERANCE_S:
        return (0.0, None), None
    if file_s >= segment.end_s - LENGTH_TOLERANCE_S:
        return (segment.start_s, min(length_s, file_s - segment.start_s)), None
    reason = f"longer than its segment: {file_s:.3f} s for {segment.start_s:g} to {segment.end_s:g} s"
    return None, reason


def split_off_valid(train: SplitReport, share: float, seed: int) -> SplitReport:
    """Move a stratified part of the training clips to a split of their own."""
    held_out = stratified_holdout([clip.labels for clip in train.clips], share, seed)
    if not held_out.any():
        raise DataError(
            "no clip can be held out of train as valid without taking a label's last one: set "
            "corpus.valid_share to 0, or list more clips"
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


def write_all(manifests_dir: Path, reports: dict[str, SplitReport], table: LabelTable) -> None:
    """Write everything; the manifests come last, so that they are only there when all is."""
    if "valid" not in reports:  # those of an earlier run with another valid_share
        for name in ("cuts_valid.jsonl", "skipped_valid.csv"):
            (manifests_dir / name).unlink(missing_ok=True)
    else:
        write_skipped(manifests_dir / "skipped_valid.csv", reports["valid"].skipped)
    table.write(manifests_dir / "labels.csv")
    write_json(
        manifests_dir / "coverage.json",
        {split: report.coverage(table) for split, report in reports.items()},
    )
    for split, report in reports.items():
        write_cuts(manifests_dir / f"cuts_{split}.jsonl", map(cut_of, report.clips))
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.skipped_by_kind.items())
        logger.info(
            "%s: %d of %d listed clips, %.2f h%s",
            split,
            len(report.clips),
            report.num_listed,
            report.seconds / 3600,
            f"; skipped: {kinds}" if kinds else "",
        )
