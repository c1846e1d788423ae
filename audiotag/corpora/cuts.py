"""Prepare a corpus from lhotse cut manifests, such as those of icefall's AudioSet recipe.

A line is a MonoCut or MultiCut whose first supervision has the class indices in `audio_event`, as in
"0;137". The manifests may be compressed, and the paths in them relative to the corpus' folder.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from audiotag.configcorpus import CutsCorpus
from audiotag.corpora.arraytask import ArrayTask
from audiotag.corpora.audioset import check_dir
from audiotag.corpora.entries import split_extension
from audiotag.corpora.listing import Listed, Part, Stored
from audiotag.corpora.matrices import TOLERANCE_S, read_entry
from audiotag.corpora.preparation import prepare_splits
from audiotag.corpora.probe import SOUND_BYTES, Probe
from audiotag.data.indexbuild import LINE_ERRORS, class_indices, parse_line
from audiotag.errors import DataError
from audiotag.labels import LabelTable

logger = logging.getLogger(__name__)

SINGLE_RECORDING = ("MonoCut", "MultiCut")
# Files are read at their own rate and resampled, whatever a manifest says of that.
HARMLESS_TRANSFORMS = ("Resample",)


def prepare_cuts(
    manifests_dir: Path, settings: CutsCorpus, *, num_jobs: int = 1, task: ArrayTask | None = None
) -> None:
    """Run stage 1 on cut manifests.

    Args:
        manifests_dir: where cuts, labels, skipped clips and coverage go.
        settings: the configuration's `corpus` section.
        num_jobs: processes that open files.
        task: only open the share of this task of a job array, and remember what is in it.
    """
    folder = check_dir(settings.dir)
    table = LabelTable.read(folder / settings.labels)
    reader = CutReader(folder, len(table), ids=settings.ids, use_features=settings.stored_features == "use")
    lists = {"train": settings.train_cuts, "valid": settings.valid_cuts, "eval": settings.eval_cuts}
    listed = {
        split: [reader.read(cut, where) for name in names for where, cut in lines_of(folder / name)]
        for split, names in lists.items()
    }
    check_ids([clip for clips in listed.values() for clip in clips], settings.max_skip)
    prepare_splits(manifests_dir, listed, table, settings, num_jobs=num_jobs, task=task)


def lines_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The place and the JSON object of each line of a manifest."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, line {number}", parse_line(line)
    except FileNotFoundError:
        raise DataError(f"cut manifest not found: {path}") from None
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}: not a whole cut manifest (after line {number}: {reason})") from None


class CutReader:
    """Turns lines into the clips that a corpus lists.

    Args:
        folder: that paths are relative to.
        num_classes: of the label list.
        ids: `cut` for the cuts' own, `file` for the names of their audio files.
        use_features: use stored features and leave the audio alone.
    """

    def __init__(self, folder: Path, num_classes: int, *, ids: str, use_features: bool) -> None:
        self.folder = str(folder)
        self.num_classes = num_classes
        self.ids = ids
        self.use_features = use_features

    def read(self, cut: dict[str, Any], where: str) -> Listed:
        """The clip of a line; what is wrong with it alone is its problem."""
        try:
            return self._read(cut)
        except LINE_ERRORS as error:
            raise DataError(f"{where}: not a cut of lhotse ({type(error).__name__}: {error})") from None

    def _read(self, cut: dict[str, Any]) -> Listed:
        recording = cut.get("recording")
        path = "" if recording is None else self._audio_path(recording)
        clip_id = cut["id"]
        if not isinstance(clip_id, str):
            raise ValueError(f"id {clip_id!r} is not a string")
        if self.ids == "file" and path:
            clip_id = split_extension(path.rpartition("/")[2])[0]
        labels, problem = self._labels(cut)
        problem = unsupported(cut) or problem
        stored = None
        if self.use_features and not problem:
            stored = self._stored(cut, path or clip_id)
            if isinstance(stored, str):
                stored, problem = None, stored
        elif recording is None and not problem:
            problem = "missing: the cut has no recording"
        return Listed(clip_id, path, labels, part_of(cut), problem, stored=stored)

    def _audio_path(self, recording: dict[str, Any]) -> str:
        source = recording["sources"][0]
        return self._absolute(source["source"]) if source["type"] == "file" else ""

    def _absolute(self, path: str) -> str:
        return os.path.normpath(os.path.join(self.folder, path))  # noqa: PTH118 (for millions of texts)

    def _labels(self, cut: dict[str, Any]) -> tuple[tuple[int, ...], str | None]:
        """The class indices of a cut, and why it cannot be used for them."""
        supervisions = cut.get("supervisions") or [{}]
        custom = supervisions[0].get("custom") or {}
        if custom.get("audio_event") is None:
            return (), "no labels: no supervision with audio_event"
        try:
            labels = class_indices(custom, "audio_event")
        except LINE_ERRORS:
            return (), f"bad labels: audio_event is {custom['audio_event']!r}"
        unknown = [label for label in labels if label >= self.num_classes]
        known = tuple(label for label in labels if label < self.num_classes)
        return known, f"unknown label: {unknown[0]} of {self.num_classes} classes" if unknown else None

    def _stored(self, cut: dict[str, Any], source: str) -> Stored | str:
        """The stored features of a cut, with what the manifest says of its recording, or a problem."""
        features = cut.get("features")
        if features is None:
            return "no features: the cut has none stored"
        matrix = read_entry(features, self._absolute(features["storage_path"]))
        if isinstance(matrix, str):
            return matrix
        about = cut.get("recording") or {}
        rate = int(about.get("sampling_rate", features["sampling_rate"]))
        samples = int(about.get("num_samples", round((cut["start"] + cut["duration"]) * rate)))
        sound = hashlib.blake2b(os.fsencode(source), digest_size=SOUND_BYTES).hexdigest()
        return Stored(matrix, Probe(samples, rate, 1, sound=sound))


def unsupported(cut: dict[str, Any]) -> str | None:
    """Why audio or features of a cut cannot be taken from one file as it is."""
    if cut.get("type") not in SINGLE_RECORDING:
        return f"unsupported: a cut of type {cut.get('type')}"
    recording = cut.get("recording") or {}
    sources = recording.get("sources") or [{"type": "file"}]
    if len(sources) != 1 or sources[0]["type"] != "file":
        return f"unsupported: audio of {len(sources)} sources, the first a {sources[0]['type']}"
    names = [entry["name"] for entry in recording.get("transforms") or ()]
    changing = [name for name in names if name not in HARMLESS_TRANSFORMS]
    return f"unsupported: audio that {changing[0]} changes" if changing else None


def part_of(cut: dict[str, Any]) -> Part:
    """Which part of its recording a cut is."""
    start_s, end_s = float(cut["start"]), float(cut["start"]) + float(cut["duration"])
    if not 0 <= start_s < end_s < math.inf:
        raise ValueError(f"it begins at {cut['start']} s and has {cut['duration']} s")
    file_s = (cut.get("recording") or {}).get("duration", end_s)
    if start_s == 0 and abs(end_s - file_s) < TOLERANCE_S:
        return Part()
    return Part(start_s, end_s)


def check_ids(clips: Sequence[Listed], max_skip: float) -> None:
    """Say when different files go by one id, as where ids were cut at their first underscore."""
    path_of_id: dict[str, str] = {}
    shared = [clip for clip in clips if path_of_id.setdefault(clip.id, clip.path) != clip.path]
    if not shared:
        return
    message = (
        f"{len(shared)} of {len(clips)} cuts have the id of a cut of another file, such as {shared[0].id} "
        f"({shared[0].path}): were ids cut short when the manifests were made? corpus.ids=file takes the "
        "names of the files"
    )
    if len(shared) > max_skip * len(clips):
        raise DataError(message)
    logger.warning("%s; the first cut of each id counts", message)
