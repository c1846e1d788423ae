"""What a corpus says about its clips before any file is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from audiotag.corpora.matrices import Matrix
from audiotag.corpora.probe import Probe

# Cutting tools leave files a little longer than they were asked for.
LENGTH_TOLERANCE_S = 1.0
# Times in a list are rounded: a part may end so much behind the end of its file.
END_TOLERANCE_S = 0.1


class Part(NamedTuple):
    """Which part of its file a clip is: `Part()` is all of it.

    Args:
        start_s, end_s: seconds from the start of the file; an end of None is that of the file.
        maybe_cut_out: the file may hold the part alone, as clips cut from videos do, or the whole video.
    """

    start_s: float = 0.0
    end_s: float | None = None
    maybe_cut_out: bool = False

    def within(self, file_s: float) -> tuple[float, float | None] | str:
        """Start and length (None: to the end) in a file of so many seconds, or why it is not there."""
        if self.maybe_cut_out and self.end_s is not None:
            return self._cut_out_or_not(file_s)
        end_s = file_s if self.end_s is None else self.end_s
        if self.start_s >= file_s or end_s > file_s + END_TOLERANCE_S:
            end = "the end" if self.end_s is None else f"{self.end_s:g} s"
            return f"outside its file: {self.start_s:g} s to {end} of {file_s:.3f} s"
        if self.start_s == 0 and self.end_s is None:
            return 0.0, None
        return self.start_s, min(end_s, file_s) - self.start_s

    def _cut_out_or_not(self, file_s: float) -> tuple[float, float | None] | str:
        length_s = self.end_s - self.start_s
        if file_s <= length_s + LENGTH_TOLERANCE_S:
            return 0.0, None
        if file_s >= self.end_s - LENGTH_TOLERANCE_S:
            return self.start_s, min(length_s, file_s - self.start_s)
        return f"longer than its segment: {file_s:.3f} s for {self.start_s:g} to {self.end_s:g} s"


WHOLE_FILE = Part()


class Stored(NamedTuple):
    """Features that a corpus brings along, which are used in place of the audio.

    Args:
        matrix: the features.
        recording: what the corpus says of the recording, which is not opened; `sound` stands for the file.
    """

    matrix: Matrix
    recording: Probe


@dataclass(frozen=True, slots=True)
class Listed:
    """A clip that a corpus names.

    Args:
        id: unique in the corpus.
        path: absolute path of its file, "" when there is none.
        labels: class indices.
        part: of the file.
        problem: a reason known from the lists alone why it cannot be used, as `<kind>[: details]`.
        unlabelled: indices of the classes of which nobody knows whether the clip has them.
        stored: its features, where these are used and the file is not.
        group: what it was cut from, where the corpus says so; clips of one group are held out together.
    """

    id: str
    path: str
    labels: tuple[int, ...]
    part: Part = WHOLE_FILE
    problem: str | None = None
    unlabelled: tuple[int, ...] = ()
    stored: Stored | None = None
    group: str = ""

    @property
    def source(self) -> str | Matrix:
        """What is read of it."""
        return self.stored.matrix if self.stored else self.path
