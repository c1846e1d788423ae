"""Good audio files of many formats, and what becomes of a damaged one in stage 1 and in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import soundfile

from audiotag.corpora.probe import Probe, probe_file
from audiotag.data.loading import load_audio
from audiotag.data.resampling import SAMPLING_RATE
from audiotag.errors import DataError

# Long enough for several pages of Ogg and frames of mp3, short enough for thousands of files.
MAX_SECONDS, MAX_VALUES = 0.6, 48000


@dataclass(frozen=True)
class Sound:
    """A format to write; `checked` says that its sound has checksums."""

    name: str
    subtype: str
    rate: int
    channels: int = 1
    format: str | None = None
    checked: bool = False

    @property
    def extension(self) -> str:
        return self.name.rpartition(".")[2]

    def write(self, path: Path) -> bytes:
        """Write noise to a file and return the file's bytes."""
        rng = np.random.default_rng(len(self.name))
        length = min(int(MAX_SECONDS * self.rate), MAX_VALUES // self.channels // 4 * 4)
        samples = rng.uniform(-0.5, 0.5, (length, self.channels))
        soundfile.write(path, samples.astype(np.float32), self.rate, subtype=self.subtype, format=self.format)
        return path.read_bytes()


SOUNDS = (
    Sound("pcm16.wav", "PCM_16", 16000),
    Sound("pcm16-stereo.wav", "PCM_16", 44100, 2),
    Sound("pcm24.wav", "PCM_24", 22050),
    Sound("pcm24-six.wav", "PCM_24", 8000, 6),
    Sound("pcm32.wav", "PCM_32", 32000),
    Sound("u8.wav", "PCM_U8", 8000),
    Sound("float.wav", "FLOAT", 11025),
    Sound("double.wav", "DOUBLE", 16000, 2),
    Sound("ulaw.wav", "ULAW", 8000),
    Sound("alaw.wav", "ALAW", 8000, 2),
    Sound("ima.wav", "IMA_ADPCM", 16000),
    Sound("extensible-six.wav", "PCM_16", 48000, 6, "WAVEX"),
    Sound("extensible24.wav", "PCM_24", 192000, 1, "WAVEX"),
    Sound("rf64.wav", "PCM_16", 16000, 1, "RF64"),
    Sound("wave64.w64", "PCM_16", 16000, 1, "W64"),
    Sound("apple.aiff", "PCM_16", 22050, 2, "AIFF"),
    Sound("core.caf", "PCM_16", 32000, 1, "CAF"),
    Sound("lossless.caf", "ALAC_16", 16000, 1, "CAF"),
    Sound("sun.au", "PCM_16", 16000, 1, "AU"),
    Sound("flac16.flac", "PCM_16", 16000, checked=True),
    Sound("flac24-stereo.flac", "PCM_24", 96000, 2, checked=True),
    Sound("flac-six.flac", "PCM_16", 44100, 6, checked=True),
    Sound("vorbis.ogg", "VORBIS", 16000, checked=True),
    Sound("vorbis-stereo.ogg", "VORBIS", 44100, 2, checked=True),
    Sound("opus.opus", "OPUS", 16000, 1, "OGG", checked=True),
    Sound("opus-stereo.ogg", "OPUS", 48000, 2, "OGG", checked=True),
    Sound("layer3.mp3", "MPEG_LAYER_III", 16000),
    Sound("layer3-stereo.mp3", "MPEG_LAYER_III", 44100, 2),
)


class Outcome(NamedTuple):
    """What became of a file.

    `same`: accepted, and its samples are those of the good file; `other`: accepted with other samples;
    `refused`: for the reason in `detail`; `broken`: a promise was broken, `detail` says which.
    """

    kind: Literal["same", "other", "refused", "broken"]
    detail: str = ""


def load_whole(path: str) -> np.ndarray:
    """The samples of a good file by way of the cut that stage 1 would make of it."""
    return load_audio(cut_of(path, probe_file(path)))


def probed(path: str, good: np.ndarray) -> Outcome:
    """Probe a file as stage 1 does and, when it is accepted, load the cut that stage 1 would make of it."""
    probe = probe_file(path)
    if probe.problem is not None:
        kind = probe.problem.partition(":")[0].strip()
        is_line = probe.problem.isprintable()
        return Outcome("refused" if kind and is_line else "broken", probe.problem or "without a reason")
    samples = load_audio(cut_of(path, probe))
    promised = math.ceil(probe.num_samples * SAMPLING_RATE / probe.sampling_rate)
    if samples.shape != (promised,):
        return Outcome("broken", f"{promised} samples promised, {samples.shape} loaded")
    return compared(samples, good)


def loaded(path: str, cut: dict[str, Any], good: np.ndarray) -> Outcome:
    """Load the cut of the good file from one that was damaged after stage 1."""
    cut["recording"]["sources"][0]["source"] = path
    try:
        samples = load_audio(cut)
    except DataError as error:
        return Outcome("refused" if path in str(error) else "broken", str(error))
    return compared(samples, good)


def compared(samples: np.ndarray, good: np.ndarray) -> Outcome:
    """How loaded samples stand to those of the good file."""
    if samples.dtype != np.float32 or not np.isfinite(samples).all():
        return Outcome("broken", f"{samples.dtype} samples, {np.isfinite(samples).mean():.1%} finite")
    if np.array_equal(samples, good):
        return Outcome("same")
    return Outcome("other", f"{len(samples)} samples instead of {len(good)}, or of other values")


def attempted(function: Callable[..., Outcome], *args: Any) -> Outcome:
    """What a function says, or the exception that it must not raise."""
    try:
        return function(*args)
    except Exception as error:
        return Outcome("broken", f"{type(error).__name__}: {error}")


def cut_of(path: str, probe: Probe) -> dict[str, Any]:
    """The whole file as a lhotse cut, all channels mixed down."""
    channels = list(range(probe.num_channels))
    duration = probe.num_samples / probe.sampling_rate
    return {
        "id": "clip",
        "type": "MonoCut" if len(channels) == 1 else "MultiCut",
        "start": 0.0,
        "duration": duration,
        "channel": 0 if len(channels) == 1 else channels,
        "supervisions": [],
        "recording": {
            "id": "clip",
            "sources": [{"type": "file", "channels": channels, "source": path}],
            "sampling_rate": probe.sampling_rate,
            "num_samples": probe.num_samples,
            "duration": duration,
            "channel_ids": channels,
        },
    }
