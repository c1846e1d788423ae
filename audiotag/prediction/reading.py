"""Read a file of any length as windows of 16 kHz mono, from its beginning to its end in one go.

The windows are those of `evaluation/windows.py`, to the sample, so that a prediction is what an evaluation
would score; but here the length of a file is known only when its end is reached, and no more than a window
and a block are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import soundfile

from audiotag.corpora.containers import find_fault
from audiotag.corpora.probe import READ_ERRORS, length_tolerance, problem_of, refuse_header, refuse_path
from audiotag.data.crop import TOLERANCE_S
from audiotag.data.loading import mix_down
from audiotag.data.resampling import resample

BLOCK_VALUES = 1 << 18


class UnusableFile(Exception):
    """A file that cannot be tagged; its text says why."""


class Window(NamedTuple):
    """A stretch of a file.

    samples: (S,) at 16 kHz, float32.
    start_s, end_s: where in the file it lies.
    """

    samples: np.ndarray
    start_s: float
    end_s: float


def header_duration(path: str) -> float:
    """Seconds of sound that a header promises, 0 where none can be read: only to sort files by."""
    try:
        with soundfile.SoundFile(path) as file:
            return file.frames / file.samplerate
    except READ_ERRORS:
        return 0.0


def read_windows(path: str, window_s: float, hop_s: float) -> Iterator[Window]:
    """All windows of a file, at least one; a file that is no longer than a window is taken whole.

    Raises `UnusableFile`, perhaps only after windows that were good: what was made of them is then to be
    thrown away.
    """
    try:
        problem = refuse_path(path) or find_fault(path)
        if problem:
            raise UnusableFile(problem)
        with soundfile.SoundFile(path) as file:
            if problem := refuse_header(file):
                raise UnusableFile(problem)
            yield from cut(Stream(file), window_s, hop_s)
    except READ_ERRORS as error:
        raise UnusableFile(problem_of(error, path)) from None


def cut(stream: Stream, window_s: float, hop_s: float) -> Iterator[Window]:
    """The windows of a stream: each `hop_s` behind the last, the final one ends with the sound."""
    rate = stream.rate
    wanted = round(window_s * rate)
    number = 0
    while stream.read_past(window_s + number * hop_s):
        start = round(number * hop_s * rate)
        yield make_window(stream.part(start, start + wanted), start, rate)
        number += 1
        # The final window may begin earlier than the next one would.
        stream.forget_before(min(round(number * hop_s * rate), stream.total - wanted))
    start = stream.total - wanted if number else 0
    yield make_window(stream.part(start, stream.total), start, rate)


def make_window(samples: np.ndarray, start: int, rate: int) -> Window:
    """A window of mono samples (S,) of a file's own rate, the first of them number `start`."""
    resampled = resample(samples, rate)
    if not np.isfinite(resampled.sum(dtype=np.float64)):
        raise UnusableFile("not finite: samples are NaN or infinite")
    return Window(resampled, start / rate, (start + len(samples)) / rate)


class Stream:
    """The end of what has been read so far of an open file, its channels mixed down."""

    def __init__(self, file: soundfile.SoundFile) -> None:
        self.rate = file.samplerate
        self.total = 0  # samples read so far
        self._file = file
        self._first = 0  # number of the first sample that is kept
        self._kept = np.zeros(0, np.float32)
        self._at_end = False

    def read_past(self, seconds: float) -> bool:
        """Read until there is more sound than this, not counting what is too little for a window; False when
        the file ends before."""
        while not self._at_end:
            duration = self.total / self.rate
            if duration - seconds > max(TOLERANCE_S, 1e-7 * duration):
                return True
            self._read_block()
        duration = self.total / self.rate
        return duration - seconds > max(TOLERANCE_S, 1e-7 * duration)

    def part(self, start: int, end: int) -> np.ndarray:
        """Samples from number `start` up to, but not with, `end`."""
        return self._kept[start - self._first : end - self._first]

    def forget_before(self, start: int) -> None:
        """Keep only what comes from sample `start` on."""
        self._kept = self._kept[max(0, start - self._first) :]
        self._first = max(start, self._first)

    def _read_block(self) -> None:
        size = max(1, BLOCK_VALUES // self._file.channels)
        block = self._file.read(size, dtype="float32", always_2d=True)
        self.total += len(block)
        self._kept = np.concatenate([self._kept, mix_down(block)])
        if len(block) == size:
            return
        self._at_end = True
        promised = self._file.frames
        if self.total == 0:
            raise UnusableFile("empty: no samples")
        if promised - self.total > length_tolerance(self._file) * promised:
            raise UnusableFile(f"truncated: the header promises {promised} samples, {self.total} are there")
