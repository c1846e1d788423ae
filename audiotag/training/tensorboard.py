"""TensorBoard's view of a run, written by the main process: each point once, also after a kill."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from audiotag.errors import describe
from audiotag.evaluation.metrics import Metrics
from audiotag.evaluation.tables import Table, number
from audiotag.eventrecords import FILE_NAME, event_files
from audiotag.labels import LabelTable
from audiotag.training.eventhistory import as_record, cut_history

logger = logging.getLogger(__name__)

WORST_CLASSES = 20


class RunWriter:
    """Curves by tag and update number, and texts; does nothing on the other ranks.

    Every call is on its way to the disk when it returns, as a single write, so that a killed process loses
    nothing; `flush` also waits for the disk. A checkpoint must not be written before what came before it is
    flushed, since the run that goes on from there writes only what comes after. A full disk costs points,
    with a line in the log: the run's state is worth more than its curves.

    Args:
        folder: where the event files are.
        last_step: the update that the run goes on from; points after it that an earlier part of the run
            wrote are taken out of its files. 0 for a run that begins.
        enabled: whether this process writes.
        last_validation: the update of the last validation that the run knows of; None for `last_step`. A run
            that was stopped before the validation of its last update has that one again.
    """

    def __init__(
        self, folder: Path, *, last_step: int, enabled: bool, last_validation: int | None = None
    ) -> None:
        self._folder = folder
        self._last_step = last_step
        self._enabled = enabled
        self._file: IO[bytes] | None = None
        self._opened = time.time()
        self._texts = cut_history(folder, last_step, last_validation) if enabled else {}

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Add one point to each of the named curves."""
        if self._enabled and values:
            from tensorboard.compat.proto.summary_pb2 import Summary

            points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            self._add(Summary(value=points), step)

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Add a text, shown as it is; one that is there already is not added again.

        A run that goes on with another text shows it at the update from which it holds.
        """
        self._add_text(tag, "\n".join(f"    {line}" for line in text.splitlines()), step)

    def validation(self, metrics: Metrics, labels: LabelTable, step: int) -> None:
        """Add the metrics of a validation, the AP of every class, and a table of the worst classes."""
        if not self._enabled:
            return
        summary = {
            f"valid/{name}": float(value)
            for name, value in metrics.summary.items()
            if value is not None and not name.startswith("num_")
        }
        # Names may occur twice and say little of the order; indices do neither.
        width = len(str(len(labels) - 1))
        per_class = {
            f"valid_AP/{label.index:0{width}} {label.name}": float(ap)
            for label, ap in zip(labels, metrics.ap, strict=True)
            if not np.isnan(ap)
        }
        self.scalars({**summary, **per_class}, step)
        self._add_text("valid/worst classes", worst_classes(metrics, labels).markdown(), step)

    def flush(self) -> None:
        """Wait until all that was added is on disk."""
        if self._file is not None:
            with losing("some of TensorBoard's points"):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and end."""
        if self._file is not None:
            self.flush()
            with losing("some of TensorBoard's points"):
                self._file.close()
            self._file = None

    def _add_text(self, tag: str, text: str, step: int) -> None:
        if not self._enabled:
            return
        from torch.utils.tensorboard.summary import text as text_summary

        summary = text_summary(tag, text)
        (value,) = summary.value
        before = self._texts.get(value.tag)
        if before != text:
            self._texts[value.tag] = text
            self._add(summary, step if before is None else max(step, self._last_step))

    def _add(self, summary: object, step: int) -> None:
        """Append one event with the values of a summary."""
        from tensorboard.compat.proto.event_pb2 import Event

        with losing(f"TensorBoard's points of update {step}"):
            if self._file is None:
                self._file = self._begin_file()
            self._append(as_record(Event(wall_time=time.time(), step=step, summary=summary)))

    def _begin_file(self) -> IO[bytes]:
        """A new event file, made when there is something to write."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names, and the clock of another machine may be behind.
        numbers = [int(FILE_NAME.fullmatch(path.name)[1]) for path in event_files(self._folder)]
        started = max([int(time.time()), *(known + 1 for known in numbers)])
        name = f"events.out.tfevents.{started:010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = (self._folder / name).open("xb", buffering=0)
        # The clock of this part of the run began before its first point.
        self._append(as_record(Event(wall_time=self._opened, file_version="brain.Event:2")))
        if self._last_step:
            # A TensorBoard that is watching still shows the points that are gone from the files.
            start = SessionLog(status=SessionLog.START)
            event = Event(wall_time=self._opened, step=self._last_step + 1, session_log=start)
            self._append(as_record(event))
        return self._file

    def _append(self, record: bytes) -> None:
        """Write a record whole, or leave the file as it was."""
        end = self._file.tell()
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(end)
            self._file.seek(end)
            error.filename = self._file.name
            raise


@contextmanager
def losing(what: str) -> Iterator[None]:
    """Go on without what cannot be written."""
    try:
        yield
    except OSError as error:
        logger.error("%s are lost: %s", what, describe(error)[0])


def worst_classes(metrics: Metrics, labels: LabelTable, count: int = WORST_CLASSES) -> Table:
    """The classes of the lowest AP, worst first."""
    order = np.argsort(metrics.ap, kind="stable")  # NaN, of classes without positives, comes last
    rows = [
        [labels[index].name, number(int(metrics.positives[index])), number(metrics.ap[index])]
        for index in order[:count].tolist()
        if not np.isnan(metrics.ap[index])
    ]
    return Table(["class", "positive clips", "AP"], rows, frozenset({"positive clips", "AP"}))
