"""What stage 1 leaves in data/manifests: cuts, skipped clips and coverage."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audiotag.atomic import atomic_write
from audiotag.corpora.probe import Probe
from audiotag.errors import DataError
from audiotag.labels import LabelTable

SPLITS = ("train", "valid", "eval")
NUM_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Clip:
    """A usable clip: its file, what the file holds, and its class indices."""

    id: str
    path: str
    probe: Probe
    labels: tuple[int, ...]
    # The part of the file that is the clip; None is up to its end.
    start_s: float = 0.0
    length_s: float | None = None

    @property
    def duration_s(self) -> float:
        return self.probe.duration_s - self.start_s if self.length_s is None else self.length_s


@dataclass(frozen=True)
class Skipped:
    """A listed clip that cannot be used; the reason is `<kind>[: details]`."""

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

    @property
    def num_listed(self) -> int:
        return len(self.clips) + len(self.skipped)

    @property
    def seconds(self) -> float:
        return sum(clip.duration_s for clip in self.clips)

    @property
    def skipped_by_kind(self) -> dict[str, int]:
        return dict(Counter(skipped.kind for skipped in self.skipped).most_common())

    def coverage(self, table: LabelTable) -> dict[str, Any]:
        """The split's entry in coverage.json."""
        present = Counter(label for clip in self.clips for label in set(clip.labels))
        return {
            "listed": self.num_listed,
            "present": len(self.clips),
            "skipped": self.skipped_by_kind,
            "seconds": round(self.seconds, 3),
            "classes": {
                label.mid: {"listed": self.listed_labels[label.index], "present": present[label.index]}
                for label in table
            },
        }

    def check(self, max_skip: float, skipped_path: Path) -> None:
        """Raise when too many of the listed clips, or all of them, were skipped."""
        share = len(self.skipped) / max(self.num_listed, 1)
        if self.clips and share <= max_skip:
            return
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.skipped_by_kind.items())
        examples = "; ".join(
            f"{skipped.id} ({skipped.path + ': ' if skipped.path else ''}{skipped.reason})"
            for skipped in self.skipped[:NUM_EXAMPLES]
        )
        if not self.num_listed:
            raise DataError(f"{self.split}: the segment lists name no clips")
        limit = f"more than corpus.max_skip = {max_skip:.1%} allows" if self.clips else "which leaves none"
        raise DataError(
            f"{self.split}: {len(self.skipped)} of {self.num_listed} listed clips ({share:.1%}) cannot be "
            f"used, {limit}: {kinds}; the first are {examples}; all are in {skipped_path}; mend the corpus"
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
    return {
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
                "custom": {"audio_event": ";".join(map(str, clip.labels))},
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


def write_cuts(path: Path, cuts: Iterable[dict[str, Any]]) -> None:
    """Write cuts as JSON lines, whole or not at all."""
    with atomic_write(path) as file:
        for cut in cuts:
            file.write(json.dumps(cut) + "\n")


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    """Write the list of skipped clips: id, path, reason."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "path", "reason"))
        writer.writerows((entry.id, entry.path, entry.reason) for entry in skipped)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")
