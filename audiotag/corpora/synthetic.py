"""The `mini` corpus: a small multi-label set of synthetic sounds in AudioSet's own layout.

Every clip is background noise with one to three events of different classes, each with its own onset,
duration, level and pitch. A clip depends only on (seed, split, index), so that a generation that was
interrupted continues, and another machine makes the same corpus.

    DEST/class_labels_indices.csv, train_segments.csv, eval_segments.csv, audio/<split>/<id>.wav
"""

from __future__ import annotations

import io
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from audiotag.atomic import atomic_write
from audiotag.errors import ConfigError
from audiotag.labels import Label, LabelTable
from audiotag.logs import progress

SAMPLING_RATE = 16000
SPLITS = ("train", "eval")
ID_ALPHABET = string.ascii_letters + string.digits + "_-"
ID_LENGTH = 11
MAX_EVENTS = 3
WAV_HEADER_BYTES = 44
BYTES_PER_SAMPLE = 2

Generator = np.random.Generator
Samples = np.ndarray


def synthesize(dest: Path | str, *, seed: int, train_clips: int = 400, eval_clips: int = 120) -> None:
    """Write the corpus; clips that are already there are kept, the lists are written last.

    Args:
        dest: folder of the corpus.
        seed: changes every clip and every id.
        train_clips, eval_clips: number of clips of the two splits.
    """
    if min(seed, train_clips, eval_clips) < 0:
        raise ConfigError("--seed, --train-clips and --eval-clips must be 0 or more")
    dest = Path(dest)
    table = LabelTable([Label(i, sound.mid, sound.name) for i, sound in enumerate(SOUNDS)])
    dest.mkdir(parents=True, exist_ok=True)
    table.write(dest / "class_labels_indices.csv")
    for split, num_clips in zip(SPLITS, (train_clips, eval_clips), strict=True):
        clips = [plan_clip(seed, split, index) for index in range(num_clips)]
        folder = dest / "audio" / split
        folder.mkdir(parents=True, exist_ok=True)
        for clip in progress(clips, len(clips), f"synthesising {split}", unit="clips"):
            write_clip(clip, folder / f"{clip.id}.wav")
        write_segments(dest / f"{split}_segments.csv", clips)


@dataclass(frozen=True)
class Clip:
    """What one clip is going to be: drawn first, so that lists need no audio."""

    id: str
    num_samples: int
    classes: tuple[int, ...]
    sound_seed: np.random.SeedSequence

    @property
    def duration_s(self) -> float:
        return self.num_samples / SAMPLING_RATE


def plan_clip(seed: int, split: str, index: int) -> Clip:
    """Draw id, duration (2.0 to 4.0 s in steps of 0.1 s) and classes of a clip."""
    sequence = np.random.SeedSequence((seed, SPLITS.index(split), index))
    plan_seed, sound_seed = sequence.spawn(2)
    rng = np.random.default_rng(plan_seed)
    num_events = rng.integers(1, MAX_EVENTS + 1)
    # Unequal classes, as in real corpora, but none so rare that a small evaluation set misses it.
    popularity = np.linspace(1.0, 0.6, len(SOUNDS))
    classes = rng.choice(len(SOUNDS), size=num_events, replace=False, p=popularity / popularity.sum())
    return Clip(
        id=draw_id(rng, index),
        num_samples=int(rng.integers(20, 41)) * SAMPLING_RATE // 10,
        classes=tuple(int(c) for c in classes),
        sound_seed=sound_seed,
    )


def draw_id(rng: Generator, index: int) -> str:
    """An id like YouTube's; every tenth begins with '-', every tenth with '_', every tenth holds '_'
    followed by digits, which is where tools that split file names go wrong."""
    letters = [ID_ALPHABET[i] for i in rng.integers(len(ID_ALPHABET), size=ID_LENGTH)]
    if index % 10 == 0:
        letters[0] = "-"
    elif index % 10 == 1:
        letters[0] = "_"
    elif index % 10 == 2:
        letters[5:8] = ["_", *(string.digits[d] for d in rng.integers(10, size=2))]
    return "".join(letters)


def write_clip(clip: Clip, path: Path) -> None:
    """Render a clip to 16-bit PCM unless the whole file is already there."""
    expected_bytes = WAV_HEADER_BYTES + BYTES_PER_SAMPLE * clip.num_samples
    if path.is_file() and path.stat().st_size == expected_bytes:
        return
    with atomic_write(path, "wb") as file:
        # By way of memory: on a full disk libsndfile writing to the file fails without saying why.
        content = io.BytesIO()
        soundfile.write(content, render_clip(clip), SAMPLING_RATE, subtype="PCM_16", format="WAV")
        file.write(content.getvalue())


def render_clip(clip: Clip) -> Samples:
    """The samples (S,) of a clip, int16."""
    rng = np.random.default_rng(clip.sound_seed)
    background_level = 10.0 ** (rng.uniform(-46.0, -36.0) / 20)
    samples = background_level * noise_band(rng, clip.num_samples, 30.0, 7900.0, tilt=rng.uniform(0.0, 1.0))
    for class_index in clip.classes:
        event_samples = int(clip.num_samples * rng.uniform(0.5, 0.95))
        onset = int(rng.integers(clip.num_samples - event_samples + 1))
        level = 10.0 ** (rng.uniform(-30.0, -18.0) / 20)
        event = SOUNDS[class_index].render(rng, event_samples)
        event *= level / np.sqrt(np.mean(event**2))
        samples[onset : onset + event_samples] += faded(event)
    peak = np.abs(samples).max()
    if peak > 0.99:
        samples *= 0.99 / peak
    return np.round(samples * 32767).astype(np.int16)


def faded(event: Samples) -> Samples:
    """The event with a rise and a fall of 20 ms, so that its ends do not click."""
    ramp = np.linspace(0.0, 1.0, SAMPLING_RATE // 50)
    event[: len(ramp)] *= ramp
    event[-len(ramp) :] *= ramp[::-1]
    return event


def write_segments(path: Path, clips: list[Clip]) -> None:
    """Write a segment list with AudioSet's three comment lines and quoted label lists."""
    used = {index for clip in clips for index in clip.classes}
    num_positive = sum(len(clip.classes) for clip in clips)
    lines = [
        "# Segments csv created by audiotag",
        f"# num_ytids={len(clips)}, num_segs={len(clips)}, num_unique_labels={len(used)}, "
        f"num_positive_labels={num_positive}",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ]
    for clip in clips:
        mids = ",".join(SOUNDS[index].mid for index in clip.classes)
        lines.append(f'{clip.id}, 0.000, {clip.duration_s:.3f}, "{mids}"')
    with atomic_write(path) as file:
        file.write("\n".join(lines) + "\n")


# The sounds. Each takes a generator and a number of samples and returns samples (S,) of any level.


def tone(rng: Generator, num_samples: int) -> Samples:
    return sine(np.full(num_samples, rng.uniform(400.0, 2500.0)))


def rising_chirp(rng: Generator, num_samples: int) -> Samples:
    return sine(np.geomspace(rng.uniform(200.0, 500.0), rng.uniform(3000.0, 6000.0), num_samples))


def falling_chirp(rng: Generator, num_samples: int) -> Samples:
    return sine(np.geomspace(rng.uniform(3000.0, 6000.0), rng.uniform(200.0, 500.0), num_samples))


def siren(rng: Generator, num_samples: int) -> Samples:
    swing = np.sin(2 * np.pi * (rng.uniform(0.8, 1.6) * times(num_samples) + rng.uniform()))
    return sine(rng.uniform(900.0, 1400.0) * 2.0 ** (0.7 * swing))


def vibrato(rng: Generator, num_samples: int) -> Samples:
    swing = np.sin(2 * np.pi * rng.uniform(5.0, 8.0) * times(num_samples))
    return sine(rng.uniform(1200.0, 3000.0) * (1.0 + 0.12 * swing))


def low_noise(rng: Generator, num_samples: int) -> Samples:
    return noise_band(rng, num_samples, rng.uniform(60.0, 120.0), rng.uniform(400.0, 600.0))


def high_noise(rng: Generator, num_samples: int) -> Samples:
    return noise_band(rng, num_samples, rng.uniform(3800.0, 4500.0), rng.uniform(6500.0, 7500.0))


def clicks(rng: Generator, num_samples: int) -> Samples:
    train = np.zeros(num_samples)
    train[rng.integers(400) :: int(SAMPLING_RATE / rng.uniform(6.0, 14.0))] = 1.0
    decay = np.exp(-np.arange(80) / 8.0)
    return np.convolve(train, decay * noise_band(rng, 80, 1000.0, 7500.0))[:num_samples]


def tremolo(rng: Generator, num_samples: int) -> Samples:
    envelope = 1.0 + np.sin(2 * np.pi * rng.uniform(7.0, 14.0) * times(num_samples))
    return envelope * sine(np.full(num_samples, rng.uniform(600.0, 2500.0)))


def harmonics(rng: Generator, num_samples: int) -> Samples:
    pitch = rng.uniform(120.0, 300.0)
    overtones = np.arange(1, int(5000.0 / pitch) + 1)
    phases = (
        2 * np.pi * (np.outer(overtones * pitch, times(num_samples)) + rng.uniform(size=(len(overtones), 1)))
    )
    return (np.sin(phases) / np.sqrt(overtones)[:, None]).sum(axis=0)


def times(num_samples: int) -> Samples:
    """Time of each sample in seconds."""
    return np.arange(num_samples) / SAMPLING_RATE


def sine(frequency: Samples) -> Samples:
    """A sine that follows a frequency (S,) in Hz."""
    return np.sin(2 * np.pi * np.cumsum(frequency) / SAMPLING_RATE)


def noise_band(rng: Generator, num_samples: int, low_hz: float, high_hz: float, tilt: float = 0.0) -> Samples:
    """Gaussian noise of unit power between two frequencies; amplitude falls as frequency ** -tilt."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    frequency = np.fft.rfftfreq(num_samples, 1 / SAMPLING_RATE)
    inside = (frequency >= low_hz) & (frequency <= high_hz)
    spectrum *= np.where(inside, np.maximum(frequency, 1.0) ** -tilt, 0.0)
    noise = np.fft.irfft(spectrum, num_samples)
    return noise / np.sqrt(np.mean(noise**2))


@dataclass(frozen=True)
class Sound:
    """One class of the corpus."""

    mid: str
    name: str
    render: Callable[[Generator, int], Samples]


SOUNDS = (
    Sound("/m/0aaa01", "Tone", tone),
    Sound("/m/0aaa02", "Chirp, rising", rising_chirp),
    Sound("/m/0aaa03", "Chirp, falling", falling_chirp),
    Sound("/m/0aaa04", "Siren", siren),
    Sound("/m/0aaa05", "Vibrato", vibrato),
    Sound("/m/0aaa06", "Low noise", low_noise),
    Sound("/m/0aaa07", "High noise", high_noise),
    Sound("/m/0aaa08", "Clicks", clicks),
    Sound("/m/0aaa09", "Tremolo", tremolo),
    Sound("/m/0aaa10", "Harmonics", harmonics),
)
