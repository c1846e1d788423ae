"""Prepare a corpus in AudioSet's layout: label list, segment lists, a folder of audio files."""

from __future__ import annotations

from pathlib import Path

from audiotag.configcorpus import AudioSetCorpus
from audiotag.corpora.arraytask import ArrayTask
from audiotag.corpora.audiofiles import find_audio
from audiotag.corpora.preparation import Listed, Part, prepare_splits
from audiotag.corpora.segments import Segment, read_segments
from audiotag.errors import ConfigError, DataError
from audiotag.labels import LabelTable


def prepare_audioset(
    manifests_dir: Path, settings: AudioSetCorpus, *, num_jobs: int = 1, task: ArrayTask | None = None
) -> None:
    """Run stage 1 on a corpus that is described by segment lists.

    Args:
        manifests_dir: where cuts, labels, skipped clips and coverage go.
        settings: the configuration's `corpus` section.
        num_jobs: processes that open audio files.
        task: only open the share of this task of a job array, and remember what is in it.
    """
    corpus_dir = check_dir(settings.dir)
    table = LabelTable.read(corpus_dir / settings.labels)
    segments = {
        split: [segment for name in lists for segment in read_segments(corpus_dir / name)]
        for split, lists in (("train", settings.train_lists), ("eval", settings.eval_lists))
    }
    # Where an id is listed for both, the evaluation's row counts.
    files = find_audio(corpus_dir / settings.audio_dir, segments["eval"] + segments["train"])
    listed = {
        split: [listed_clip(segment, files, table) for segment in rows] for split, rows in segments.items()
    }
    prepare_splits(manifests_dir, listed, table, settings, num_jobs=num_jobs, task=task)


def check_dir(dir: str | None) -> Path:
    """The corpus folder, which somebody has to name."""
    if dir is None:
        raise ConfigError(
            "corpus.dir is not set: name the corpus folder in db.sh or with --set corpus.dir=FOLDER"
        )
    if not Path(dir).is_dir():
        raise DataError(f"corpus folder not found: {Path(dir).absolute()} (corpus.dir)")
    return Path(dir).absolute()


def listed_clip(segment: Segment, files: dict[str, str], table: LabelTable) -> Listed:
    """The clip of a row, with its file and its class indices."""
    known = tuple(table.index_of_mid[mid] for mid in segment.mids if mid in table.index_of_mid)
    unknown = [mid for mid in segment.mids if mid not in table.index_of_mid]
    return Listed(
        segment.id,
        files.get(segment.id, ""),
        known,
        Part(segment.start_s, segment.end_s, maybe_cut_out=True),
        f"unknown label: {', '.join(unknown)} not in the label list" if unknown else None,
    )
