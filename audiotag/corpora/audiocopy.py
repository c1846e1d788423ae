"""Copy the sound of every clip, once: 16 kHz, mono, 16-bit FLAC, so that training never resamples."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from audiotag.atomic import atomic_write
from audiotag.corpora.copystore import (
    COPY_VERSION,
    JOURNAL,
    Copy,
    copy_stem,
    find_copy,
    is_whole,
    noted_copies,
)
from audiotag.corpora.journal import journal_line, open_journal
from audiotag.corpora.manifests import Clip, SplitReport, cut_of
from audiotag.corpora.parallel import parallel_map
from audiotag.corpora.probe import Probe
from audiotag.data.loading import load_audio
from audiotag.data.resampling import SAMPLING_RATE
from audiotag.errors import StorageError, describe
from audiotag.logs import progress

logger = logging.getLogger(__name__)


def copy_audio(reports: Iterable[SplitReport], audio_dir: Path, *, num_jobs: int = 1) -> None:
    """Copy the clips of all splits, and let them refer to their copies.

    Args:
        reports: of the splits.
        audio_dir: folder of the copies; what an interrupted or earlier run left there is used.
        num_jobs: processes.
    """
    reports = list(reports)
    stems = {id(clip): copy_stem(clip) for report in reports for clip in report.clips}
    clips = {stems[id(clip)]: clip for report in reports for clip in report.clips}
    copies = {}
    for stem, copy in noted_copies(audio_dir).items():
        if stem in clips and is_whole(copy, audio_dir):
            copies[stem] = copy
        elif stem in clips:
            (audio_dir / copy.name).unlink(missing_ok=True)
    pending = [stem for stem in clips if stem not in copies]
    with open_journal(audio_dir / JOURNAL) as journal:
        done = parallel_map(
            partial(copy_clip, audio_dir), [clips[stem] for stem in pending], num_jobs, chunk_size=8
        )
        done = progress(done, len(pending), "copying audio", unit="clips")
        for stem, copy in zip(pending, done, strict=True):
            copies[stem] = copy
            journal.write(journal_line([COPY_VERSION, *copy]))
            journal.flush()
    logger.info(
        "copied %d clips to %s; %d were there already", len(pending), audio_dir, len(clips) - len(pending)
    )
    for report in reports:
        report.clips = [copied(clip, audio_dir, copies[stems[id(clip)]]) for clip in report.clips]


def copy_clip(audio_dir: Path, clip: Clip) -> Copy:
    """Write the copy of a clip, whole or not at all, unless an interrupted run has got that far."""
    earlier = find_copy(audio_dir, copy_stem(clip))
    if earlier is not None:
        return earlier
    samples = load_audio(cut_of(clip))
    # By way of memory: on a full disk libsndfile writing to the file fails without saying why.
    content = io.BytesIO()
    if np.abs(samples).max() > 1.0:
        name = copy_stem(clip) + ".wav"
        soundfile.write(content, samples, SAMPLING_RATE, format="WAV", subtype="FLOAT")
    else:
        name = copy_stem(clip) + ".flac"
        # In steps of 1/32768, as they are read again; libsndfile itself would write steps of 1/32767.
        steps = np.rint(samples * 32768.0).clip(-32768, 32767).astype(np.int16)
        soundfile.write(content, steps, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    try:
        with atomic_write(audio_dir / name, "wb") as file:
            file.write(content.getbuffer())
    except OSError as error:
        message, _ = describe(error)
        raise StorageError(f"clip {clip.id}: {message}; finished copies are kept") from None
    return Copy(name, len(samples), content.getbuffer().nbytes)


def copied(clip: Clip, audio_dir: Path, copy: Copy) -> Clip:
    """The clip as its copy holds it."""
    return replace(
        clip,
        path=str((audio_dir / copy.name).absolute()),
        probe=Probe(copy.num_samples, SAMPLING_RATE, 1, clip.probe.problem),
        start_s=0.0,
        length_s=None,
        part_probe=clip.content,
    )
