"""The clips of a split on their way into manifests: usable ones become cuts, skipped ones a list."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.atomic import atomic_write
from audiotag.corpora.matrices import Matrix
from audiotag.corpora.probe import Probe
from audiotag.errors import DataError
from audiotag.seal import sealed

SPLITS = ("train", "valid", "eval")
NUM_EXAMPLES = 3
# Kinds of skipped clips that are nothing to mend: their sound is there once, as it should be.
REDUNDANT = ("duplicate", "leak")


@dataclass(frozen=True, slots=True)
class Clip:
    """A usable clip.

    Args:
        id, path: its name and its file.
        probe: what the file holds.
        labels: class indices.
        start_s, length_s: the part of the file that is the clip; a length of None is up to its end.
        part_probe: what that part holds, where it is not the whole file, or what its stored features hold.
        unlabelled: indices of the classes of which nobody knows whether the clip has them.
        matrix: its stored features, where these are used and the file is not.
        group: what it was cut from, where the corpus says so.
    """

    id: str
    path: str
    probe: Probe
    labels: tuple[int, ...]
    start_s: float = 0.0
    length_s: float | None = None
    part_probe: Probe | None = None
    unlabelled: tuple[int, ...] = ()
    matrix: Matrix | None = None
    group: str = ""

    @property
    def duration_s(self) -> float:
        return self.probe.duration_s - self.start_s if self.length_s is None else self.length_s

    @property
    def content(self) -> Probe:
        """What the clip itself holds."""
        return self.part_probe or self.probe


@dataclass(frozen=True)
class Skipped:
    """A listed clip that is not used; the reason is `<kind>[: details]`."""

    id: str
    path: str
    reason: str

    @property
    def kind(self) -> str:
        return self.reason.partition(":")[0]


@dataclass
class SplitReport:
    """The usable and the skipped clips of one split, with the classes that were asked for."""

    split: str
    clips: list[Clip] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    listed_labels: Counter[int] = field(default_factory=Counter)
    # The split whose clips these are too.
    same_as: str | None = None
    # The split that some of whose clips these are.
    part_of: str | None = None

    @property
    def num_listed(self) -> int:
        return len(self.clips) + len(self.skipped)

    @property
    def seconds(self) -> float:
        return sum(clip.duration_s for clip in self.clips)

    @property
    def skipped_by_kind(self) -> dict[str, int]:
        return dict(Counter(skipped.kind for skipped in self.skipped).most_common())

    def sift(self, reason_against: Callable[[Clip], str | None]) -> None:
        """Skip the clips that there is a reason against."""
        kept = []
        for clip in self.clips:
            reason = reason_against(clip)
            if reason is None:
                kept.append(clip)
            else:
                self.skipped.append(Skipped(clip.id, clip.path, reason))
        self.clips = kept

    def check(self, max_skip: float, skipped_path: Path) -> None:
        """Raise when too many of the listed clips cannot be used, or none is left."""
        if not self.num_listed:
            raise DataError(f"{self.split}: the corpus lists no clips")
        unusable = [skipped for skipped in self.skipped if skipped.kind not in REDUNDANT]
        share = len(unusable) / self.num_listed
        if self.clips and share <= max_skip:
            return
        blamed = unusable if self.clips else self.skipped
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(s.kind for s in blamed).most_common())
        examples = "; ".join(
            f"{skipped.id} ({skipped.path + ': ' if skipped.path else ''}{skipped.reason})"
            for skipped in blamed[:NUM_EXAMPLES]
        )
        limit = f"more than corpus.max_skip = {max_skip:.1%} allows" if self.clips else "which leaves none"
        raise DataError(
            f"{self.split}: {len(blamed)} of {self.num_listed} listed clips "
            f"({len(blamed) / self.num_listed:.1%}) cannot be used, {limit}: {kinds}; the first are "
            f"{examples}; all are in {skipped_path}; mend the corpus"
            + (" or raise corpus.max_skip" if self.clips else "")
        )


def cut_of(
    clip: Clip, *, number: int | None = None, start_s: float | None = None, duration_s: float | None = None
) -> dict[str, Any]:
    """A clip as the JSON object of a lhotse cut: all of it, or the window `number` of its file.

    Lhotse's own objects are not made here: a list of two million of them would take 10 GB. A file of
    several channels makes a MultiCut, which is mixed down when it is loaded.
    """
    channels = list(range(clip.probe.num_channels))
    channel = 0 if len(channels) == 1 else channels
    start = clip.start_s if start_s is None else start_s
    duration = clip.duration_s if duration_s is None else duration_s
    cut_id = clip.id if number is None else f"{clip.id}-{number}"
    classes = {"audio_event": clip.labels}
    if clip.unlabelled:
        classes["unlabelled"] = clip.unlabelled
    cut = {
        "id": cut_id,
        "start": start,
        "duration": duration,
        "channel": channel,
        "supervisions": [
            {
                "id": cut_id,
                "recording_id": clip.id,
                "start": 0.0,
                "duration": duration,
                "channel": channel,
                "custom": {field: ";".join(map(str, indices)) for field, indices in classes.items()},
            }
        ],
        "recording": {
            "id": clip.id,
            "sources": [{"type": "file", "channels": channels, "source": clip.path}],
            "sampling_rate": clip.probe.sampling_rate,
            "num_samples": clip.probe.num_samples,
            "duration": clip.probe.duration_s,
            "channel_ids": channels,
        },
        "type": "MonoCut" if len(channels) == 1 else "MultiCut",
    }
    if clip.matrix is not None:
        # Features have one channel, whatever the recording has.
        cut |= {"type": "MonoCut", "channel": 0}
        cut["features"] = clip.matrix.manifest(clip.id, start, duration)
    return cut


def write_cuts(path: Path, cuts: Iterable[dict[str, Any]]) -> None:
    """Write cuts as JSON lines, whole or not at all."""
    with atomic_write(path) as file:
        for cut in cuts:
            file.write(json.dumps(cut) + "\n")


def write_sounds(path: Path, clips: Sequence[Clip]) -> None:
    """Write a number (N,) for the audio of each clip, by which other recipes know it again; 0 for silence."""
    sounds = [0 if clip.content.level_dbfs is None else int(clip.content.sound[:16], 16) for clip in clips]
    with atomic_write(path, "wb") as file:
        np.savez(file, sounds=np.array(sounds, dtype=np.uint64))


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    """Write the list of skipped clips: id, path, reason."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "path", "reason"))
        writer.writerows(map(printable, (entry.id, entry.path, entry.reason)) for entry in skipped)


def printable(text: str) -> str:
    """The text with an escape for each byte of a file name that is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file with its checksum, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(sealed(content), file, indent=1, ensure_ascii=False)
        file.write("\n")
