"""Shards of stored features: how cuts are dealt into them, and whether one is there, whole and unchanged.

A shard is an archive of compressed matrices and a small manifest of its own. Both are named after a hash of
all that the features are made from, so that changed cuts, audio files or settings ask for new files. The
manifest comes last; its first line holds the checksums by which damage is noticed, its other lines are the
cuts as the split's manifest has them.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.atomic import atomic_write
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import audio_path
from audiotag.data.stagefiles import parse_object
from audiotag.errors import DataError
from audiotag.seal import file_checksum

SMALLEST_SHARD, USUAL_SHARDS = 32, 64
# What a killed job loses: 500 clips of 10 s are 10 to 20 seconds of work, a minute where cores or disks are
# shared by many.
LARGEST_SHARD, LARGEST_SHARD_S = 500, 5000.0


@dataclass(frozen=True)
class Shard:
    """Cuts `start` to `end` of a manifest and the files that their features go to.

    fault: None for a finished shard, "" for one that was never finished, or how one is damaged.
    """

    start: int
    end: int
    archive: Path
    manifest: Path
    fault: str | None


def shard_bounds(durations: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of each shard, limited in clips and, for long ones, in seconds."""
    size = min(max(len(durations) // USUAL_SHARDS, SMALLEST_SHARD), LARGEST_SHARD)
    until_s = np.cumsum([0.0, *durations], dtype=np.float64)
    bounds, start = [], 0
    while start < len(durations):
        fitting = int(np.searchsorted(until_s, until_s[start] + LARGEST_SHARD_S, side="right")) - 1
        end = min(start + size, max(fitting, start + 1), len(durations))
        bounds.append((start, end))
        start = end
    return bounds


def inspect_shard(
    manifest: IndexedManifest, folder: Path, prefix: str, settings: Any, bounds: tuple[int, int]
) -> Shard:
    """Name a shard after what it is made from, and look whether it is there.

    Args:
        manifest: the cuts.
        folder: of the archives.
        prefix: of the files' names.
        settings: all else that the features depend on; anything with a `repr`.
        bounds: first cut and end.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for index in range(*bounds):
        record = manifest.record(index)
        digest.update(json.dumps(record, sort_keys=True).encode())
        digest.update(repr(file_stamp(audio_path(record))).encode())
    name = f"{prefix}-{bounds[0]:08d}-{digest.hexdigest()[:12]}"
    archive, shard_manifest = folder / f"{name}.lca", folder / f"{name}.jsonl"
    return Shard(*bounds, archive, shard_manifest, find_fault(archive, shard_manifest))


def file_stamp(path: str) -> tuple[int, int] | None:
    """Size and time of an audio file; None for what is no file."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def find_fault(archive: Path, manifest: Path) -> str | None:
    """How a shard is damaged: None when it is whole, "" when it was never finished."""
    for path in (archive, manifest):
        if path.is_dir():
            raise DataError(f"{path} is a folder, which no file can replace; remove it and run stage 2 again")
    if not manifest.exists():
        return ""
    try:
        header, _, cuts = manifest.read_bytes().partition(b"\n")
        expected = parse_object(header)
        if zlib.crc32(cuts) != expected["cuts_crc32"]:
            return f"{manifest.name} was changed"
        if expected["archive"] != str(archive):
            return f"{manifest.name} points at {expected['archive']}"
        if not archive.is_file():
            return f"{archive.name} is missing"
        size = archive.stat().st_size
        if size != expected["archive_bytes"]:
            return f"{archive.name} has {size} bytes, {expected['archive_bytes']} were written"
        if file_checksum(archive) != expected["archive_crc32"]:
            return f"{archive.name} holds other bytes than were written"
    except (OSError, ValueError, KeyError) as error:
        return f"{manifest.name} cannot be read ({error})"
    return None


def write_shard_manifest(shard: Shard, lines: Sequence[str], archive_bytes: int, archive_crc32: int) -> None:
    """Write the manifest of a shard whose archive is finished."""
    cuts = "".join(lines).encode()
    header = {
        "archive": str(shard.archive),
        "archive_bytes": archive_bytes,
        "archive_crc32": archive_crc32,
        "cuts_crc32": zlib.crc32(cuts),
    }
    with atomic_write(shard.manifest, "wb") as file:
        file.write(json.dumps(header).encode() + b"\n" + cuts)


def read_cuts(shard: Shard) -> bytes:
    """The lines of a finished shard's cuts."""
    return shard.manifest.read_bytes().partition(b"\n")[2]


def remove_other_shards(folder: Path, prefix: str, shards: Sequence[Shard]) -> None:
    """Delete all shards of this prefix but these, and what killed runs left."""
    wanted = {path for shard in shards for path in (shard.archive, shard.manifest)}
    for pattern in (f"{prefix}-*", f".{prefix}-*"):
        for path in folder.glob(pattern):
            if path not in wanted:
                path.unlink(missing_ok=True)
