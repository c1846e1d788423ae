"""What earlier parts of a run left in TensorBoard's event files, cut back to where the run goes on.

A run that goes on from a checkpoint writes all points after it once more. What an earlier part had written of
these is taken out of its files, so that each point is there once, whoever reads them. Each file is rewritten
beside the old one, which it then replaces: a process that is killed at this leaves files that the next one
can start from.
"""

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from audiotag.atomic import atomic_write, sync_folder
from audiotag.eventrecords import Records, event_files, read_records

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

logger = logging.getLogger(__name__)

# TensorBoard reads whatever has `tfevents` in its name, and must read neither of these.
REWRITTEN = "rewritten.part"
SET_ASIDE = "damaged"
NEVER = (math.inf, None)
VALIDATION = "valid"  # how the tags of validation begin


def cut_history(folder: Path, last_step: int, last_validation: int | None = None) -> dict[str, str]:
    """Take points of updates after `last_step`, and all that is there twice, out of a run's event files.

    Points of validations go after `last_validation`, which may be earlier.

    A file with damaged records is named in the log and kept under another name, with its whole records in its
    place. Returns the newest text of each tag.
    """
    for leftover in (*folder.glob(REWRITTEN), *folder.glob(f".{REWRITTEN}.*.tmp")):
        leftover.unlink()
    cut = Cut(last_step, last_step if last_validation is None else last_validation)
    # From the newest record back to the oldest, since what came again later counts.
    for path in reversed(event_files(folder)):
        cut_file(path, cut)
    return cut.texts


def cut_file(path: Path, cut: Cut) -> None:
    """Rewrite one event file without what is to go; a file of which nothing is left is deleted."""
    records = read_records(path)
    kept, has_points, unreadable = [], False, 0
    for span in reversed(records.spans):
        event = parse(records.payload(span))
        if event is None:
            unreadable += 1
            continue
        values = len(event.summary.value)
        if cut.keeps(event):
            whole = len(event.summary.value) == values
            kept.append(records.content[slice(*span)] if whole else as_record(event))
            has_points = has_points or values > 0
    set_damaged_aside(records, unreadable)
    if not has_points:
        path.unlink()
    elif (content := b"".join(reversed(kept))) != records.content:
        part = path.with_name(REWRITTEN)
        with atomic_write(part, "wb") as file:
            file.write(content)
        part.replace(path)
        sync_folder(path.parent)


def set_damaged_aside(records: Records, unreadable: int) -> None:
    """Name what is wrong with a file, and copy it to a name under which nobody reads it."""
    path = records.path
    if records.torn:
        logger.info("%s: its last record was cut off by a kill or crash; dropped", path)
    if records.damaged is None and not unreadable:
        return
    reason = records.damaged or f"{unreadable} records are no events"
    aside = path.with_name(path.name.replace("tfevents", SET_ASIDE))
    shutil.copyfile(path, aside)
    logger.warning("%s is damaged: %s; kept as %s, with what can be read in its place", path, reason, aside)


@dataclass
class Cut:
    """Decides, from the newest event back to the oldest, which of them stay.

    last_step: the update that the run goes on from. last_validation: that of its last validation.
    texts: the newest text of each tag so far.
    """

    last_step: int
    last_validation: int
    texts: dict[str, str] = field(default_factory=dict)
    _restart: float = math.inf
    _next: dict[str, tuple[int, str | None]] = field(default_factory=dict)

    def keeps(self, event: Event) -> bool:
        """Whether an event stays; of several values in it, those that do not are taken out."""
        kind = event.WhichOneof("what")
        if kind == "session_log":
            # A part of the run that began here: TensorBoard forgets what an earlier one had from here on.
            self._restart = min(self._restart, event.step)
            return event.step <= self.last_step + 1
        if kind == "file_version":
            return True
        if event.step > self.last_step or event.step >= self._restart:
            return False
        if kind != "summary":
            return True
        kept = [value for value in event.summary.value if self._keeps_value(value, event.step)]
        if 0 < len(kept) < len(event.summary.value):
            kept = [type(value).FromString(value.SerializeToString()) for value in kept]
            del event.summary.value[:]
            event.summary.value.extend(kept)
        return bool(kept)

    def _keeps_value(self, value: Summary.Value, step: int) -> bool:
        """Whether no later record has the same point, or points before it; of texts, another one may."""
        tag, text = value.tag, text_of(value)
        if tag.startswith(VALIDATION) and step > self.last_validation:
            return False
        next_step, next_text = self._next.get(tag, NEVER)
        if step > next_step or (step == next_step and text == next_text):
            return False
        self._next[tag] = step, text
        if text is not None:
            self.texts.setdefault(tag, text)
        return True


def parse(payload: bytes) -> Event | None:
    """The event of a record, or None where it is none."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    try:
        return Event.FromString(payload)
    except DecodeError:
        return None


def as_record(event: Event) -> bytes:
    """The bytes of an event in a file."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    record = BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    return record.getvalue()


def text_of(value: Summary.Value) -> str | None:
    """The text of a value of the text plugin; None for all others."""
    if not value.HasField("metadata") or value.metadata.plugin_data.plugin_name != "text":
        return None
    return b"\n".join(value.tensor.string_val).decode(errors="replace")
