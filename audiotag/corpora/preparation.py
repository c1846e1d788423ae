"""Stage 1 for any corpus: from listed clips to cuts, skipped clips and coverage.

A corpus' own file says which clips it lists (`Listed`); all that follows is the same for each of them:

    every file is decoded -> clips that cannot be used are skipped -> so are copies of the same audio
    -> valid is held out -> the sound is copied at 16 kHz if that is asked for -> manifests are written
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from audiotag.atomic import atomic_write
from audiotag.configcorpus import Preparation
from audiotag.corpora.arraytask import ArrayTask
from audiotag.corpora.copystore import remove_copies
from audiotag.corpora.coverage import coverage_of
from audiotag.corpora.duplicates import count_leaks, skip_duplicates, skip_leaks
from audiotag.corpora.listing import Listed, Part
from audiotag.corpora.manifests import (
    SPLITS,
    SplitReport,
    cut_of,
    write_cuts,
    write_json,
    write_skipped,
    write_sounds,
)
from audiotag.corpora.matrices import Matrix
from audiotag.corpora.probe import Probe
from audiotag.corpora.probecache import probe_files, probe_matrices
from audiotag.corpora.selection import measure_parts, select_clips
from audiotag.corpora.validation import choose_valid
from audiotag.errors import ConfigError
from audiotag.labels import LabelTable
from audiotag.writable import check_writable

__all__ = ["Listed", "Part", "prepare_splits"]

logger = logging.getLogger(__name__)

# Floating-point files may exceed full scale a little; integers in them are thousands.
FAR_ABOVE_FULL_SCALE = 10.0


def prepare_splits(
    manifests_dir: Path,
    listed: dict[str, list[Listed]],
    table: LabelTable,
    settings: Preparation,
    *,
    num_jobs: int = 1,
    task: ArrayTask | None = None,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write cuts, labels, skipped clips and coverage of train, valid and eval.

    Args:
        manifests_dir: where they go; copies of the audio go to a folder `audio` beside it.
        listed: the clips of "train" and "eval", and of "valid" where the corpus names its own.
        table: the classes.
        settings: the configuration's `corpus` section.
        num_jobs: processes that open audio files.
        task: only open the share of this task of a job array, and remember what is in it.
        notes: further entries for coverage.json.
    """
    listed = {split: rows for split, rows in listed.items() if rows or split != "valid"}
    if "valid" in listed and settings.valid in ("eval", "eval_tenth"):
        raise ConfigError(
            f"corpus.valid is {settings.valid}, but the corpus lists {len(listed['valid'])} clips for valid: "
            "leave the key out, or list them for train"
        )
    check_writable(manifests_dir)
    logger.info("listed: %s", ", ".join(f"{split} {len(rows)}" for split, rows in listed.items()))
    if task is not None:
        probe_clips(manifests_dir, listed, num_jobs, task)
        return
    reports = usable_clips(manifests_dir, listed, settings, num_jobs)
    notes = {**(notes or {}), **(note_of_leaks(reports) if settings.leaks == "keep" else {})}
    for split, report in reports.items():
        write_skipped(manifests_dir / f"skipped_{split}.csv", report.skipped)
    for split, report in reports.items():
        report.check(settings.max_skip, manifests_dir / f"skipped_{split}.csv")
        warn_of(report)
    held_out = choose_valid(reports, settings, listed)
    reports = {split: reports[split] for split in SPLITS if split in reports}
    audio_dir = manifests_dir.parent / "audio"
    if settings.audio_copy == "flac":
        # Not at the top: importing torch takes longer than preparing a small corpus.
        from audiotag.corpora.audiocopy import copy_audio

        copy_audio(reports.values(), audio_dir, num_jobs=num_jobs)
    write_all(manifests_dir, reports, table, held_out=held_out, notes=notes)
    remove_copies(audio_dir, except_for=(clip.path for report in reports.values() for clip in report.clips))


def usable_clips(
    manifests_dir: Path, listed: dict[str, list[Listed]], settings: Preparation, num_jobs: int
) -> dict[str, SplitReport]:
    """The clips of each split that can be used, each sound in one split only, and the others with reasons."""
    probes = probe_clips(manifests_dir, listed, num_jobs)
    reports = select_clips(
        listed, probes, min_duration_s=settings.min_duration_s, keep_silent=settings.silent == "keep"
    )
    cache = probe_cache(manifests_dir)
    measure_parts(reports.values(), cache, keep_silent=settings.silent == "keep", num_jobs=num_jobs)
    if settings.leaks == "skip":
        skip_leaks(reports)
    if settings.duplicates == "skip":
        for report in reports.values():
            skip_duplicates(report)
    return reports


def note_of_leaks(reports: dict[str, SplitReport]) -> dict[str, str]:
    """Say how many clips have the same audio as one of another split and stay all the same."""
    leaks = count_leaks(reports)
    if not leaks:
        return {}
    text = ", ".join(f"{count} of {len(reports[split].clips)} of {split}" for split, count in leaks.items())
    logger.warning("clips whose audio another split has too are kept, as the corpus is published: %s", text)
    return {"clips whose audio another split has too": text}


def probe_clips(
    manifests_dir: Path, listed: dict[str, list[Listed]], num_jobs: int, task: ArrayTask | None = None
) -> dict[str | Matrix, Probe]:
    """What is in each listed file, or in those of one task of a job array, by path or matrix."""
    clips = [clip for rows in listed.values() for clip in rows if not clip.problem]
    paths = sorted({clip.path for clip in clips if clip.path and not clip.stored})
    matrices = list(dict.fromkeys(clip.stored.matrix for clip in clips if clip.stored))
    cache = probe_cache(manifests_dir)
    probes = probe_files(paths, cache=cache, num_jobs=num_jobs, task=task)
    return probes | probe_matrices(matrices, cache=cache, num_jobs=num_jobs, task=task)


def probe_cache(manifests_dir: Path) -> Path:
    """Where it is remembered what is in files."""
    return manifests_dir / "probes.jsonl"


def warn_of(report: SplitReport) -> None:
    """Say what a user should know of the clips although none of it stops the stage."""
    leaks = [skipped for skipped in report.skipped if skipped.kind == "leak"]
    if leaks:
        logger.warning(
            "%s: %d of %d listed clips are left out since eval or valid has them too, such as %s (%s)",
            report.split,
            len(leaks),
            report.num_listed,
            leaks[0].id,
            leaks[0].reason,
        )
    loud = [clip for clip in report.clips if clip.content.peak > FAR_ABOVE_FULL_SCALE]
    if loud:
        loudest = max(loud, key=lambda clip: clip.content.peak)
        logger.warning(
            "%s: %d of %d clips are far above full scale, up to %g in %s: float files that hold integers?",
            report.split,
            len(loud),
            len(report.clips),
            loudest.content.peak,
            loudest.path,
        )


def write_all(
    manifests_dir: Path,
    reports: dict[str, SplitReport],
    table: LabelTable,
    *,
    held_out: bool,
    notes: dict[str, Any],
) -> None:
    """Write everything; the manifests come last, so that they are only there when all is."""
    ids_path = manifests_dir / "valid_ids.txt"
    if "valid" not in reports:  # those of an earlier run with another valid_share
        for name in ("cuts_valid.jsonl", "skipped_valid.csv", "sounds_valid.npz", "sounds_valid.npy"):
            (manifests_dir / name).unlink(missing_ok=True)
    else:
        write_skipped(manifests_dir / "skipped_valid.csv", reports["valid"].skipped)
    if held_out:
        with atomic_write(ids_path) as file:
            file.writelines(f"{clip.id}\n" for clip in reports["valid"].clips)
    else:
        ids_path.unlink(missing_ok=True)
    table.write(manifests_dir / "labels.csv")
    coverage = {split: coverage_of(report, table) for split, report in reports.items()}
    write_json(manifests_dir / "coverage.json", {**coverage, "notes": notes})
    for split, report in reports.items():
        (manifests_dir / f"sounds_{split}.npy").unlink(missing_ok=True)  # of an earlier version
        if any(clip.matrix for clip in report.clips):  # their sound is not known
            (manifests_dir / f"sounds_{split}.npz").unlink(missing_ok=True)
        else:
            write_sounds(manifests_dir / f"sounds_{split}.npz", report.clips)
        write_cuts(manifests_dir / f"cuts_{split}.jsonl", map(cut_of, report.clips))
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.skipped_by_kind.items())
        logger.info(
            "%s: %d of %d listed clips, %.2f h%s%s%s",
            split,
            len(report.clips),
            report.num_listed,
            report.seconds / 3600,
            f"; skipped: {kinds}" if kinds else "",
            f"; the same as {report.same_as}" if report.same_as else "",
            f"; a part of {report.part_of}" if report.part_of else "",
        )
