"""Read one cut: its audio as 16 kHz mono, or its stored features.

Plain files are read by soundfile directly; whatever else a lhotse manifest can hold goes through lhotse.
"""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import Features
from lhotse.serialization import deserialize_item

from audiotag.data.featurefile import CHECKSUM, read_matrix
from audiotag.data.resampling import resample
from audiotag.errors import DataError

Record = dict[str, Any]
CHANGED = (
    "the file has changed since it was prepared: restore it, or run the stages from 1 on again with --force"
)


class Unreadable(DataError):
    """A clip that was found good when it was prepared and that cannot be read now."""

    def __init__(self, clip_id: str, reason: str, advice: str = CHANGED) -> None:
        super().__init__(clip_id, reason, advice)  # what it is made from again on its way between processes
        self.clip_id, self.reason, self.advice = clip_id, reason, advice

    def __str__(self) -> str:
        return f"clip {self.clip_id}: {self.reason}; {self.advice}"


def load_audio(record: Record) -> np.ndarray:
    """Samples (S,) in [-1, 1] of a cut at 16 kHz, all its channels mixed down, float32.

    Args:
        record: a cut as its manifest line holds it.
    """
    try:
        if is_plain_file(record):
            samples, rate = read_plain_file(record)
        else:
            cut = deserialize_item(deepcopy(record))  # which takes apart what it is given
            samples, rate = np.atleast_2d(cut.load_audio()).T, cut.sampling_rate
        if len(samples) == 0:
            raise ValueError("it holds no samples")
        mixed = resample(mix_down(samples), rate)
        # One sum tells of a single sample that is NaN or infinite.
        if not math.isfinite(mixed.sum(dtype=np.float64)):
            raise ValueError("samples are NaN or infinite")
    except Exception as error:  # each decoder has errors of its own
        raise unreadable(record, audio_path(record), error) from None
    return mixed


def load_features(record: Record, frames: tuple[int, int] | None = None) -> np.ndarray:
    """The stored log-mel (T,F) of a cut, float32.

    Args:
        record: a cut as its manifest line holds it.
        frames: read only those from the first up to, but not with, the second of these.
    """
    stored = record.get("features")
    if stored is None:
        raise DataError(f"clip {record['id']} has no stored features: run stage 2 (for noise: stage 3)")
    try:
        features = Features.from_dict(stored)
        check_path(features.storage_path)
        if type(features.num_frames) is not int:
            raise TypeError(f"num_frames is {features.num_frames!r}")
        whole = features.start == record["start"] and features.duration == record["duration"]
        # A whole matrix is taken as it is: faster, and lhotse's own way repeats or drops a frame where there
        # is not one every 10 ms of the cut.
        if whole:
            first, end = frames or (0, features.num_frames)
            checksum = (record.get("custom") or {}).get(CHECKSUM)
            values = read_matrix(features, first, end, checksum)
        else:
            first, end = frames or (0, None)
            values = deserialize_item(deepcopy(record)).load_features()[first:end]
    except Exception as error:  # each codec has errors of its own
        raise unreadable(record, stored.get("storage_path"), error) from None
    if whole and values.shape != (end - first, features.num_features):
        raise Unreadable(
            record["id"],
            f"{features.storage_path} holds features {values.shape} where the manifest says "
            f"{(end - first, features.num_features)}",
            "run stage 2 again with --force",
        )
    if len(values) == 0:
        raise Unreadable(record["id"], f"{stored.get('storage_path')} holds no frames of it")
    return values.astype(np.float32, copy=False)


def is_plain_file(record: Record) -> bool:
    """Whether a cut is a stretch of one audio file, without lhotse's transforms."""
    recording = record.get("recording") or {}
    sources = recording.get("sources") or []
    return (
        record.get("type") in ("MonoCut", "MultiCut")
        and len(sources) == 1
        and sources[0]["type"] == "file"
        and not recording.get("transforms")
    )


def read_plain_file(record: Record) -> tuple[np.ndarray, int]:
    """Samples (S,C) of the cut's channels and the rate of the file."""
    recording = record["recording"]
    source = recording["sources"][0]
    rate = recording["sampling_rate"]
    start = round(record["start"] * rate)
    wanted = min(round(record["duration"] * rate), recording["num_samples"] - start)
    check_path(source["source"])
    with soundfile.SoundFile(source["source"]) as file:
        if file.samplerate != rate:
            raise ValueError(f"the file has {file.samplerate} Hz where the manifest says {rate} Hz")
        if start >= file.frames:
            raise ValueError(f"the cut begins at sample {start}, but the file has only {file.frames}")
        if start:
            file.seek(start)
        samples = file.read(wanted, dtype="float32", always_2d=True)
    if len(samples) < wanted:
        raise ValueError(f"the manifest promises {wanted} samples, {len(samples)} are there")
    channels = record["channel"] if isinstance(record["channel"], list) else [record["channel"]]
    if samples.shape[1] == len(channels):
        return samples, rate
    return samples[:, [source["channels"].index(channel) for channel in channels]], rate


def check_path(path: Any) -> None:
    """A number would be taken for an open file of this process."""
    if not isinstance(path, str):
        raise TypeError(f"{path!r} is not the path of a file")


def mix_down(samples: np.ndarray) -> np.ndarray:
    """The mean (S,) of the channels of samples (S,C)."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    # numpy's own mean over so short an axis takes ten times as long.
    mixed = samples[:, 0] + samples[:, 1]
    for channel in range(2, samples.shape[1]):
        mixed += samples[:, channel]
    mixed /= samples.shape[1]
    return mixed


def audio_path(record: Record) -> str:
    """Where a cut's audio comes from, for messages."""
    sources = (record.get("recording") or {}).get("sources") or [{}]
    source = sources[0].get("source", "no audio")
    return source if isinstance(source, str) else "audio inside the manifest"


def unreadable(record: Record, path: str | None, error: Exception) -> Unreadable:
    """The error for a clip whose file a decoder could not make sense of."""
    text = getattr(error, "error_string", "") or str(error) or type(error).__name__
    if isinstance(error, soundfile.LibsndfileError):  # which calls all that the system says a system error
        text = system_error(path) or text
    return Unreadable(str(record.get("id")), f"cannot read {path}: {' '.join(text.split())}")


def system_error(path: str) -> str | None:
    """What keeps a file from being opened, such as that there is none."""
    try:
        with Path(path).open("rb"):
            return None
    except OSError as error:
        return error.strerror
