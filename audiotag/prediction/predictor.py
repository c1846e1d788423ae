"""Tag files: windows in, one row of logits for each file out, in the order of the files.

Shapes: B windows of a batch, S samples, W windows of a file, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from audiotag.data.padding import pad
from audiotag.errors import ConfigError
from audiotag.evaluation.logodds import log_odds
from audiotag.evaluation.scoring import AMP_DTYPES
from audiotag.evaluation.windowmeans import SUMS, WindowMean, clip_logits, summands
from audiotag.export.package import TrainedModel
from audiotag.frontend import FRAME_LENGTH, FRAME_SHIFT, SAMPLING_RATE, Frontend
from audiotag.prediction.inputs import Input
from audiotag.prediction.readahead import read_ahead
from audiotag.prediction.reading import UnusableFile, Window, header_duration, read_windows

DEFAULT_WINDOW_S = 10.0
# So many files are sorted by length at a time; their results come out together, in their own order.
SORTED_FILES = 256


@dataclass(frozen=True)
class Prediction:
    """What a model says of a file.

    Args:
        input: the file.
        duration_s: its length.
        logits: (C,) of the whole file; their sigmoid is the probability, whatever the model's loss was.
        num_windows: in how many windows it was heard.
        spans: (W,2) where each window begins and ends, in seconds, and
        window_logits: (W,C) its own logits; both empty unless they were asked for.
    """

    input: Input
    duration_s: float
    logits: np.ndarray
    num_windows: int
    spans: np.ndarray
    window_logits: np.ndarray


@dataclass(frozen=True)
class Failure:
    """A file that could not be tagged, and why."""

    input: Input
    reason: str


@dataclass
class Batch:
    """Windows, whose files they belong to, and the files that end with them; files by their numbers."""

    windows: list[Window] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    frames: int = 0
    """Of features of the last window."""
    ends: dict[int, str | None] = field(default_factory=dict)
    """The reason why it failed, or None, of each file that is over."""


class FileScore:
    """The logits of a file from those of its windows; memory does not grow with them unless they are kept."""

    def __init__(self, mean: WindowMean, keep: bool) -> None:
        self.mean, self.keep = mean, keep
        self.count, self.duration_s = 0, 0.0
        self.spans: list[tuple[float, float]] = []
        self.rows: list[np.ndarray] = []
        self._first: np.ndarray | None = None
        self._sums: list[np.ndarray] = []

    def add(self, window: Window, logits: np.ndarray) -> None:
        """Take in the logits (C,) of the next window."""
        with np.errstate(invalid="ignore"):  # the result is looked at
            parts = [part[0] for part in summands(logits[None], self.mean)]
            if self.count:
                adders = SUMS[self.mean]
                parts = [add(*pair) for add, *pair in zip(adders, self._sums, parts, strict=True)]
        self._sums = parts
        if self.count == 0:
            self._first = logits
        self.count += 1
        self.duration_s = window.end_s
        if self.keep:
            self.spans.append((window.start_s, window.end_s))
            self.rows.append(logits)

    def logits(self) -> np.ndarray:
        """The logits (C,) of all windows so far; those of a single one are its own."""
        return self._first if self.count == 1 else clip_logits(self._sums, self.count, self.mean)


class Predictor:
    """Tags files with a model.

    Args:
        model: on `device`.
        device: where the forward pass runs.
        amp: its precision: off, fp16 or bf16.
        window_s: longer files are heard in windows of this length; None takes `default_window_s`.
        hop_s: from one window to the next; None takes half of a window.
        window_mean: how windows become one score: logits, probabilities or max.
        batch_size: windows of a batch.
        keep_windows: keep each window's logits, too.
    """

    def __init__(
        self,
        model: TrainedModel,
        *,
        device: torch.device,
        amp: str = "off",
        window_s: float | None = None,
        hop_s: float | None = None,
        window_mean: str = "probabilities",
        batch_size: int = 16,
        keep_windows: bool = False,
    ) -> None:
        self.model, self.device, self.amp = model, device, amp
        self.batch_size, self.keep_windows = batch_size, keep_windows
        self.frontend = model.tagger.frontend
        self.window_s = window_s or default_window_s(self.frontend)
        self.hop_s = hop_s or self.window_s / 2
        check_windows(self.frontend, self.window_s, self.hop_s)
        probabilities = "softmax" if model.loss == "ce" else "sigmoid"
        self.mean: WindowMean = probabilities if window_mean == "probabilities" else window_mean

    def predict(self, files: Sequence[Input]) -> Iterator[Prediction | Failure]:
        """What becomes of each file, in their order."""
        remaining = iter(files)
        while group := list(islice(remaining, SORTED_FILES)):
            yield from self._predict_group(group)

    def _predict_group(self, files: list[Input]) -> list[Prediction | Failure]:
        """Sorted by length, so that little of a batch is padding."""
        durations = [header_duration(file.path) for file in files]
        order = sorted(range(len(files)), key=durations.__getitem__)
        scores: dict[int, FileScore] = {}
        results: dict[int, Prediction | Failure] = {}
        for batch in read_ahead(self._batches(files, order)):
            logits = self._logits(batch.windows) if batch.windows else ()
            for number, window, row in zip(batch.owners, batch.windows, logits, strict=True):
                scores.setdefault(number, FileScore(self.mean, self.keep_windows)).add(window, row)
            for number, reason in batch.ends.items():
                score = scores.pop(number, None)
                results[number] = self._result(files[number], score, reason)
        return [results[number] for number in range(len(files))]

    def _batches(self, files: list[Input], order: list[int]) -> Iterator[Batch]:
        """The windows of files, one file behind the other."""
        batch = Batch()
        for number in order:
            try:
                for window in read_windows(files[number].path, self.window_s, self.hop_s):
                    frames = self._check_length(window)
                    # Only now, so that the end of a file is in the same batch as its last window.
                    if self._is_full(batch, frames):
                        yield batch
                        batch = Batch()
                    batch.frames = frames
                    batch.windows.append(window)
                    batch.owners.append(number)
            except UnusableFile as error:
                batch.ends[number] = str(error)
            else:
                batch.ends[number] = None
        yield batch

    def _check_length(self, window: Window) -> int:
        """The frames of features of a window, at least one."""
        frames = self.frontend.num_frames(len(window.samples))
        if frames < 1:
            milliseconds = 1000 * len(window.samples) / SAMPLING_RATE
            raise UnusableFile(f"too short: {milliseconds:.0f} ms are less than one frame of features")
        return frames

    def _is_full(self, batch: Batch, frames: int) -> bool:
        """Whether a window of so many frames has no place in a batch.

        Where padding changes what an encoder hears, only windows of one length share a batch, so that what is
        said of a file does not depend on the others.
        """
        if len(batch.windows) == self.batch_size:
            return True
        independent = self.model.tagger.encoder.batch_independent
        return not independent and bool(batch.windows) and frames != batch.frames

    @torch.no_grad()
    def _logits(self, windows: list[Window]) -> np.ndarray:
        """The logits (B,C) of windows, float32."""
        samples = pad([window.samples for window in windows]).to(self.device)
        lengths = torch.tensor([len(window.samples) for window in windows], device=self.device)
        features, lengths = self.frontend(samples, lengths)
        dtype = AMP_DTYPES[self.amp]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            return self.model.tagger(features, lengths).float().cpu().numpy()

    def _result(self, file: Input, score: FileScore | None, reason: str | None) -> Prediction | Failure:
        if reason is not None:
            return Failure(file, reason)
        logits, rows = score.logits()[None], np.array(score.rows)
        if not np.isfinite(logits).all():
            hint = (
                ": numbers above 65504 overflow in fp16, take --amp bf16 or off" if self.amp == "fp16" else ""
            )
            return Failure(file, f"the model's scores are not finite{hint}")
        if self.model.loss == "ce":
            logits, rows = log_odds(logits), log_odds(rows) if len(rows) else rows
        spans = np.array(score.spans)
        return Prediction(file, score.duration_s, logits[0], score.count, spans, rows)


def default_window_s(frontend: Frontend) -> float:
    """The length of what the model was trained on, where it has only one; 10 s otherwise."""
    if frontend.target_frames is None:
        return DEFAULT_WINDOW_S
    return longest_samples(frontend) / SAMPLING_RATE


def longest_samples(frontend: Frontend) -> int:
    """The samples that fill a fixed input."""
    if frontend.preset.snip_edges:
        return FRAME_LENGTH + (frontend.target_frames - 1) * FRAME_SHIFT
    return frontend.target_frames * FRAME_SHIFT


def check_windows(frontend: Frontend, window_s: float, hop_s: float) -> None:
    """Refuse windows that the model would not hear, or not all of."""
    if frontend.num_frames(round(window_s * SAMPLING_RATE)) < 1:
        raise ConfigError(f"--window-s {window_s:g} is too short for one frame of features")
    limit = frontend.target_frames
    # A millisecond more than a whole frame is read with a window.
    if limit is not None and round(window_s * SAMPLING_RATE) > longest_samples(frontend) + FRAME_SHIFT:
        raise ConfigError(
            f"--window-s {window_s:g}: the model's input is {longest_samples(frontend) / SAMPLING_RATE:g} s "
            "long, and nothing behind that would be heard"
        )
    if hop_s > window_s:
        raise ConfigError(
            f"--hop-s {hop_s:g} is more than --window-s {window_s:g}: sound between would not be heard"
        )
