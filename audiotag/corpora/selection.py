"""Which of the listed clips can be used, judged by the lists and by what their files hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from audiotag.corpora.duplicates import SPLIT_ORDER
from audiotag.corpora.listing import Listed
from audiotag.corpora.manifests import SPLITS, Clip, Skipped, SplitReport
from audiotag.corpora.matrices import Matrix
from audiotag.corpora.probe import Probe
from audiotag.corpora.probecache import PartOfFile, probe_parts
from audiotag.fields import has_control_characters


def select_clips(
    listed: dict[str, list[Listed]],
    probes: dict[str | Matrix, Probe],
    *,
    min_duration_s: float,
    keep_silent: bool,
) -> dict[str, SplitReport]:
    """The usable clips of each split, and the others with reasons.

    An id belongs to one clip of one split: further rows of it are skipped, those of train first.
    """
    reports = {split: SplitReport(split) for split in SPLIT_ORDER if split in listed}
    split_of_id: dict[str, str] = {}
    for split, report in reports.items():
        for row in listed[split]:
            report.listed_labels.update(set(row.labels))
            earlier = split_of_id.setdefault(row.id, "")
            split_of_id[row.id] = earlier or split
            if earlier == split:
                found = "duplicate: the id is listed more than once; the first row counts"
            elif earlier:
                found = f"leak: the id is also listed for {earlier}"
            else:
                found = usable_clip(row, probes.get(row.source, Probe()), min_duration_s, keep_silent)
            if isinstance(found, Clip):
                report.clips.append(found)
            else:
                report.skipped.append(Skipped(row.id, row.path, found))
    return {split: reports[split] for split in SPLITS if split in reports}


def usable_clip(row: Listed, probe: Probe, min_duration_s: float, keep_silent: bool) -> Clip | str:
    """The clip of a row, or the reason why it cannot be used."""
    if row.problem:
        return row.problem
    if not is_good_id(row.id):
        return "bad id: it is empty, has a control character such as a line break, or is not UTF-8"
    if not row.source:
        return "missing"
    if probe.problem and not (keep_silent and probe.is_silent):
        return probe.problem
    file = row.stored.recording if row.stored else probe
    place = row.part.within(file.duration_s)
    if isinstance(place, str):
        return place
    clip = Clip(row.id, row.path, file, row.labels, *place, unlabelled=row.unlabelled, group=row.group)
    if row.stored:
        clip = replace(clip, part_probe=probe, matrix=row.stored.matrix)
    if clip.duration_s < min_duration_s:
        return f"too short: {clip.duration_s:.3f} s, corpus.min_duration_s is {min_duration_s:g}"
    return clip


def is_good_id(clip_id: str) -> bool:
    """Whether an id can stand in a manifest, in a list with one id in each line, and on a screen."""
    try:
        return len(clip_id.encode("utf-8").splitlines()) == 1 and not has_control_characters(clip_id)
    except UnicodeEncodeError:
        return False


def measure_parts(reports: Iterable[SplitReport], cache: Path, *, keep_silent: bool, num_jobs: int) -> None:
    """Decode the clips that are parts of longer files once more by themselves, and skip the silent ones."""
    reports = list(reports)
    parts = {part_of(clip) for report in reports for clip in report.clips if needs_measuring(clip)}
    if not parts:
        return
    probes = probe_parts(sorted(parts), cache=cache, num_jobs=num_jobs)

    def problem(clip: Clip) -> str | None:
        probe = clip.content
        return None if keep_silent and probe.is_silent else probe.problem

    for report in reports:
        report.clips = [
            clip if not needs_measuring(clip) else replace(clip, part_probe=probes[part_of(clip)])
            for clip in report.clips
        ]
        report.sift(problem)


def needs_measuring(clip: Clip) -> bool:
    """Whether what was found out about the file does not hold for the clip."""
    return clip.length_s is not None and clip.part_probe is None


def part_of(clip: Clip) -> PartOfFile:
    """The part of its file that a clip is."""
    return clip.path, clip.start_s, clip.duration_s
