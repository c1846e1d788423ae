"""Open every audio file and measure it: what the header says, and whether the sound is really there.

A header is not to be trusted: a copy that was cut off keeps its old header, and libsndfile then reports the
shorter length without a word. So the file is decoded to its end and compared with what it promises.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from audiotag.corpora.parallel import parallel_map
from audiotag.corpora.versions import PROBE_VERSION
from audiotag.logs import progress

BLOCK_SAMPLES = 1 << 18
# Files between these two steps of 16-bit audio hold no sound, at most the noise of a converter.
SILENCE_SPAN = 2 / 32768
# mp3 has no exact length in its header.
LENGTH_TOLERANCE = {"mp3": 0.01}
UNKNOWN_SIZE = 0xFFFFFFFF


class Probe(NamedTuple):
    """What a file holds; `problem` is None or `<reason>[: details]`."""

    num_samples: int = 0
    sampling_rate: int = 0
    num_channels: int = 0
    problem: str | None = None

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sampling_rate if self.sampling_rate else 0.0


def probe_files(paths: list[str], *, cache: Path, num_jobs: int = 1) -> dict[str, Probe]:
    """Probe files in parallel.

    Args:
        paths: the files.
        cache: file of earlier results, extended as results arrive; a file that has the same size and time
            as then is not decoded again, so that an interrupted run continues.
        num_jobs: processes.
    """
    known = read_cache(cache)
    stamps = {path: stamp_of(path) for path in paths}
    results = {path: known[path][1] for path in paths if path in known and known[path][0] == stamps[path]}
    pending = [path for path in paths if path not in results]
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.open("a", encoding="utf-8") as file:
        if file.tell() and not ends_with_newline(cache):
            file.write("\n")
        probes = parallel_map(probe_file, pending, num_jobs, chunk_size=32)
        probes = progress(probes, len(pending), "opening audio", unit="files")
        for count, (path, probe) in enumerate(zip(pending, probes, strict=True), start=1):
            results[path] = probe
            file.write(json.dumps([PROBE_VERSION, path, *stamps[path], *probe]) + "\n")
            if count % 500 == 0:
                file.flush()
    return results


def probe_file(path: str) -> Probe:
    """Decode one file to its end."""
    try:
        if Path(path).stat().st_size == 0:
            return Probe(problem="empty: the file has zero bytes")
        with soundfile.SoundFile(path) as file:
            return measure(file, path)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        text = getattr(error, "error_string", "") or str(error)
        if path.lower().endswith(".m4a"):
            return Probe(problem="unreadable: no decoder for m4a here; convert it to flac or wav")
        return Probe(problem=f"unreadable: {' '.join(text.split()) or 'the data are damaged'}")


def measure(file: soundfile.SoundFile, path: str) -> Probe:
    """Count and look at the samples of an open file."""
    num_samples, lowest, highest, finite = 0, np.inf, -np.inf, True
    # `SoundFile.blocks` believes the header: where sound is missing it yields what is left in its buffer.
    while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
        num_samples += len(block)
        lowest, highest = min(lowest, block.min()), max(highest, block.max())
        finite = finite and bool(np.isfinite(block).all())
    probe = Probe(num_samples, file.samplerate, file.channels)
    extension = path.rpartition(".")[2].lower()
    missing_share = 1 - num_samples / file.frames if file.frames else 0.0
    if missing_share > LENGTH_TOLERANCE.get(extension, 0.0):
        return probe._replace(
            problem=f"truncated: the header promises {file.frames} samples, {num_samples} are there"
        )
    cut_off = find_cut(path)
    if cut_off:
        return probe._replace(problem=f"truncated: {cut_off}")
    if num_samples == 0:
        return probe._replace(problem="empty: no samples")
    if not finite:
        return probe._replace(problem="not finite: samples are NaN or infinite")
    if highest - lowest <= SILENCE_SPAN:
        return probe._replace(problem="silent: all samples are the same")
    return probe


def find_cut(path: str) -> str | None:
    """How a container shows that its end is missing, or None."""
    with Path(path).open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        magic = file.read(12)
        if magic[:4] == b"RIFF" and magic[8:12] == b"WAVE":
            return find_wav_cut(file, file_bytes)
        if magic[:4] == b"OggS":
            return find_ogg_cut(file, file_bytes)
    return None


def find_wav_cut(file, file_bytes: int) -> str | None:
    """Walk over the chunks to the data and compare their size with what is left of the file."""
    while len(header := file.read(8)) == 8:
        name, size = header[:4], struct.unpack("<I", header[4:])[0]
        if name == b"data":
            left = file_bytes - file.tell()
            if left < size and size != UNKNOWN_SIZE:
                return f"the header promises {size} bytes of sound, {left} are there"
            return None
        file.seek(size + size % 2, os.SEEK_CUR)
    return None


def find_ogg_cut(file, file_bytes: int) -> str | None:
    """The last page of an Ogg stream carries the end-of-stream flag (bit 2 of byte 5) and is whole.

    Byte 26 of a page counts its segments, the bytes that follow are their sizes.
    """
    file.seek(max(0, file_bytes - 2**17))
    tail = file.read()
    page = tail.rfind(b"OggS")
    header = tail[page : page + 27]
    if page < 0 or len(header) < 27 or not header[5] & 4:
        return "the stream has no last page"
    sizes = tail[page + 27 : page + 27 + header[26]]
    if len(sizes) < header[26] or len(tail) < page + 27 + len(sizes) + sum(sizes):
        return "the last page of the stream is cut off"
    return None


def stamp_of(path: str) -> tuple[int, int]:
    """Size and modification time, by which a changed file is noticed."""
    try:
        status = Path(path).stat()
    except OSError:  # gone since the folder was listed; opening it will say so
        return 0, 0
    return status.st_size, status.st_mtime_ns


def read_cache(path: Path) -> dict[str, tuple[tuple[int, int], Probe]]:
    """Earlier results by path: (stamp, probe); lines that were cut off count as absent."""
    known = {}
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    version, name, size, time_ns, *probe = json.loads(line)
                    if version == PROBE_VERSION:
                        known[name] = ((size, time_ns), Probe(*probe))
                except (ValueError, TypeError):
                    continue
    return known


def ends_with_newline(path: Path) -> bool:
    """Whether the last line of a file is whole."""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
