"""Open an audio file, or a part of it, and measure it: what the header says, and what is really there.

A header is not to be trusted: a copy that was cut off keeps its old header, and libsndfile then reports the
shorter length without a word. So the file is decoded to its end and compared with what it promises.
"""

from __future__ import annotations

import hashlib
import math
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from audiotag.corpora.audiofiles import UNDECODABLE_EXTENSIONS
from audiotag.corpora.containers import find_fault

BLOCK_VALUES = 1 << 18
# Files between these two steps of 16-bit audio hold no sound, at most the noise of a converter.
SILENCE_SPAN = 2 / 32768
SILENT = "silent: all samples are the same"
# An mp3 has no exact length in its header.
MP3_TOLERANCE = 0.01
# What libsndfile says of a FLAC stream that does not know its length; it cannot read such a stream either.
PLAUSIBLE_RATES = range(100, 1_000_001)  # Hz
UNKNOWN_FRAMES = 1 << 62
SOUND_BYTES = 16
READ_ERRORS = (soundfile.LibsndfileError, OSError, RuntimeError, TypeError, ValueError)
LARGEST = float(np.finfo(np.float32).max)


class Probe(NamedTuple):
    """What a file, or a part of one, holds.

    Args:
        num_samples, sampling_rate, num_channels: as they were decoded.
        problem: None or `<reason>[: details]`.
        level_dbfs: root mean square of all samples of all channels over full scale; None without a sound.
        peak: largest absolute sample; 1.0 is full scale.
        sound: a hash of rate, channels and samples, the same for all lossless formats.
    """

    num_samples: int = 0
    sampling_rate: int = 0
    num_channels: int = 0
    problem: str | None = None
    level_dbfs: float | None = None
    peak: float = 0.0
    sound: str | None = None

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sampling_rate if self.sampling_rate else 0.0

    @property
    def is_silent(self) -> bool:
        return self.problem == SILENT


def probe_file(path: str) -> Probe:
    """Decode a file to its end."""
    return probe_sound(path, None)


def probe_part(path: str, start_s: float, length_s: float) -> Probe:
    """Decode the part of a file that a cut with this start and duration holds."""
    return probe_sound(path, (start_s, length_s))


def probe_sound(path: str, part: tuple[float, float] | None) -> Probe:
    """Decode all of a file or a part of it; whatever goes wrong is the probe's problem."""
    try:
        if problem := refuse_path(path):
            return Probe(problem=problem)
        with soundfile.SoundFile(path) as file:
            if problem := refuse_header(file):
                return Probe(problem=problem)
            if part is None:
                whole = check_length(measure(file, file.frames), file.frames, length_tolerance(file))
                fault = find_fault(path)
                return whole._replace(problem=fault) if fault else whole
            start = round(part[0] * file.samplerate)
            wanted = min(round(part[1] * file.samplerate), file.frames - start)
            file.seek(start)
            return check_length(measure(file, wanted), wanted)
    except READ_ERRORS as error:
        return Probe(problem=problem_of(error, path))


def refuse_path(path: str) -> str | None:
    """Why a file is not even opened, or None; what cannot be found raises."""
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        return "unreadable: not a regular file"
    if status.st_size == 0:
        return "empty: the file has zero bytes"
    return None if is_utf8(path) else "unreadable: its name is not UTF-8; rename it"


def refuse_header(file: soundfile.SoundFile) -> str | None:
    """Why an open file is not decoded, or None."""
    if file.format == "RAW":  # what libsndfile makes of any bytes under some names, such as x.au
        return "unreadable: it has no header that says what it is"
    if file.frames >= UNKNOWN_FRAMES:
        return "unreadable: its header does not say how long it is; convert it anew"
    if file.samplerate not in PLAUSIBLE_RATES:
        return f"unreadable: {file.samplerate} Hz is not a sampling rate of sound"
    return None


def length_tolerance(file: soundfile.SoundFile) -> float:
    """The share of the samples promised by the header that may be missing."""
    return MP3_TOLERANCE if file.format == "MP3" else 0.0


def problem_of(error: Exception, path: str) -> str:
    """What one of `READ_ERRORS` says of a file."""
    if isinstance(error, FileNotFoundError):
        return "missing: no such file"
    extension = path.rpartition(".")[2].lower()
    if extension in UNDECODABLE_EXTENSIONS:
        return f"unreadable: no decoder for {extension} here; convert it to flac or wav"
    text = getattr(error, "error_string", "") or getattr(error, "strerror", "") or str(error)
    return f"unreadable: {' '.join(text.split()) or 'the data are damaged'}"


def measure(file: soundfile.SoundFile, num_wanted: int) -> Probe:
    """Read an open file from where it is and look at its samples."""
    num_samples, energy = 0, 0.0
    lowest, highest = math.inf, -math.inf
    digest = hashlib.blake2b(f"{file.samplerate} {file.channels} ".encode(), digest_size=SOUND_BYTES)
    block_samples = max(1, BLOCK_VALUES // file.channels)
    # `SoundFile.blocks` believes the header: where sound is missing it yields what is left in its buffer.
    while len(block := file.read(min(block_samples, num_wanted - num_samples), "float32", always_2d=True)):
        block += 0.0  # there are two zeros in floating point, and their bits differ
        num_samples += len(block)
        lowest, highest = min(lowest, float(block.min())), max(highest, float(block.max()))
        energy += float(np.square(block, dtype=np.float64).sum())
        digest.update(block)
    probe = Probe(num_samples, file.samplerate, file.channels)
    if num_samples == 0:
        return probe._replace(problem="empty: no samples")
    if not math.isfinite(energy) or max(-lowest, highest) * file.channels > LARGEST:
        return probe._replace(problem="not finite: samples are NaN, infinite or nearly so")
    probe = probe._replace(peak=float(f"{max(-lowest, highest):.6g}"), sound=digest.hexdigest())
    if highest - lowest <= SILENCE_SPAN:
        return probe._replace(problem=SILENT)
    return probe._replace(level_dbfs=round(10 * math.log10(energy / (num_samples * file.channels)), 3))


def check_length(probe: Probe, num_promised: int, tolerance: float = 0.0) -> Probe:
    """The probe, with a problem if a larger share than the tolerance of what was promised is missing."""
    if num_promised - probe.num_samples <= tolerance * num_promised:
        return probe
    problem = f"truncated: the header promises {num_promised} samples, {probe.num_samples} are there"
    return probe._replace(problem=problem)


def is_utf8(path: str) -> bool:
    """Whether a path is text, as manifests and decoders need it; Linux takes any bytes for a name."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
