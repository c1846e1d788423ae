"""Read one cut: its audio as 16 kHz mono, or its stored features.

Plain files are read by soundfile directly; whatever else a lhotse manifest can hold goes through lhotse.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio
from lhotse import Features
from lhotse.serialization import deserialize_item

from audiotag.errors import DataError

SAMPLING_RATE = 16000
Record = dict[str, Any]


def load_audio(record: Record) -> np.ndarray:
    """Samples (S,) in [-1, 1] of a cut at 16 kHz, all its channels mixed down, float32.

    Args:
        record: a cut as its manifest line holds it.
    """
    try:
        if is_plain_file(record):
            samples, rate = read_plain_file(record)
        else:
            cut = deserialize_item(record)
            samples, rate = np.atleast_2d(cut.load_audio()).T, cut.sampling_rate
    except DataError:
        raise
    except Exception as error:  # each decoder has errors of its own
        raise unreadable(record, audio_path(record), error) from None
    if len(samples) == 0:
        raise DataError(f"clip {record['id']}: {audio_path(record)} holds no samples; run stage 1 again")
    return resample(samples.mean(axis=1), rate)


def load_features(record: Record) -> np.ndarray:
    """The stored log-mel (T,F) of a cut, float32."""
    stored = record.get("features")
    if stored is None:
        raise DataError(f"clip {record['id']} has no stored features: run stage 2 (for noise: stage 3)")
    try:
        features = Features.from_dict(stored)
        whole = features.start == record["start"] and features.duration == record["duration"]
        # A whole matrix is taken as it is: faster, and lhotse's own way repeats or drops a frame where there
        # is not one every 10 ms of the cut.
        values = features.load() if whole else deserialize_item(record).load_features()
    except Exception as error:  # each codec has errors of its own
        raise unreadable(record, stored.get("storage_path"), error) from None
    if whole and values.shape != (features.num_frames, features.num_features):
        raise DataError(
            f"clip {record['id']}: {features.storage_path} holds features {values.shape} where the manifest "
            f"says {(features.num_frames, features.num_features)}: run stage 2 again with --force"
        )
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
    with soundfile.SoundFile(source["source"]) as file:
        if file.samplerate != rate:
            raise ValueError(f"the file has {file.samplerate} Hz where the manifest says {rate} Hz")
        if start:
            file.seek(start)
        samples = file.read(wanted, dtype="float32", always_2d=True)
    if len(samples) < wanted:
        raise ValueError(f"the manifest promises {wanted} samples, {len(samples)} are there")
    channels = record["channel"] if isinstance(record["channel"], list) else [record["channel"]]
    if samples.shape[1] == len(channels):
        return samples, rate
    return samples[:, [source["channels"].index(channel) for channel in channels]], rate


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples (S,) from any rate to 16 kHz, low-pass filtered."""
    if rate == SAMPLING_RATE:
        return samples
    return resampler(rate)(torch.from_numpy(samples)).numpy()


@lru_cache(maxsize=16)
def resampler(rate: int) -> torchaudio.transforms.Resample:
    """The windowed-sinc filter of one rate; making it costs more than using it."""
    return torchaudio.transforms.Resample(rate, SAMPLING_RATE)


def audio_path(record: Record) -> str:
    """Where a cut's audio comes from, for messages."""
    sources = (record.get("recording") or {}).get("sources") or [{}]
    source = sources[0].get("source", "no audio")
    return source if isinstance(source, str) else "audio inside the manifest"


def unreadable(record: Record, path: str | None, error: Exception) -> DataError:
    """The error for a clip that stage 1 or 2 found good and that cannot be read now."""
    text = getattr(error, "error_string", "") or str(error) or type(error).__name__
    return DataError(
        f"clip {record.get('id')}: cannot read {path}: {' '.join(text.split())}; the file has changed since "
        "it was prepared: restore it, or run the stages from 1 on again"
    )
