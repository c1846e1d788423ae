"""Stage 2: store log-mel features, compressed by lilcom, beside manifests that point at them.

The cuts of a split are dealt into shards, each an archive with its own small manifest. A shard's name holds
a checksum of all it was made from, so that finished shards are kept when a run was interrupted and made
again when cuts, audio files or the front end have changed.

lilcom rounds each value to a multiple of 2**-5 (`TICK_POWER`): stored features differ by up to 0.016, in a
natural logarithm of energy, from computed ones.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.features.io import LilcomChunkyWriter

from audiotag.atomic import atomic_write
from audiotag.corpora.manifests import SPLITS
from audiotag.corpora.parallel import parallel_map
from audiotag.corpora.versions import FEATURES_VERSION
from audiotag.data.dataset import pad
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import audio_path, load_audio
from audiotag.data.splits import manifest_path, open_split, read_coverage
from audiotag.errors import DataError
from audiotag.frontend import FRAME_SHIFT, PRESETS, SAMPLING_RATE, Frontend
from audiotag.logs import progress

logger = logging.getLogger(__name__)

TICK_POWER = -5
SMALLEST_SHARD, LARGEST_SHARD, USUAL_SHARDS = 32, 2000, 64
MAX_BATCH_CLIPS = 16
MAX_BATCH_SAMPLES = MAX_BATCH_CLIPS * 10 * SAMPLING_RATE


@dataclass(frozen=True)
class Shard:
    """Cuts `start` to `end` of a manifest and the files that their features go to."""

    start: int
    end: int
    archive: Path
    manifest: Path


def extract_splits(data_dir: Path, *, preset: str, num_jobs: int = 1) -> None:
    """Store the features of every split that stage 1 made, in `data_dir`/fbank/<preset>."""
    for split in SPLITS:
        result = manifest_path(data_dir, split, preset=preset, storage="stored")
        if split == "valid" and split not in read_coverage(data_dir):
            result.unlink(missing_ok=True)  # an earlier corpus held out a valid split, this one does not
            continue
        manifest = open_split(data_dir, split, preset=preset, storage="on_the_fly")
        extract_features(manifest, result, preset=preset, num_jobs=num_jobs)


def extract_features(manifest: IndexedManifest, result: Path, *, preset: str, num_jobs: int = 1) -> None:
    """Store the features of all cuts of a manifest.

    Args:
        manifest: the cuts.
        result: the manifest to write, `cuts_<split>.jsonl`; the archives go to a folder beside it.
        preset: of the front end.
        num_jobs: processes.
    """
    split = result.stem.removeprefix("cuts_")
    archive_dir = result.parent.absolute() / "archives"
    archive_dir.mkdir(parents=True, exist_ok=True)
    shards = plan_shards(manifest, archive_dir, split, preset)
    pending = [shard for shard in shards if not is_finished(shard)]
    logger.info("%s: %d cuts in %d shards, %d to do", split, len(manifest), len(shards), len(pending))
    work = partial(extract_shard, manifest, preset)
    for _ in progress(
        parallel_map(work, pending, num_jobs), len(pending), f"features {split}", unit="shards"
    ):
        pass
    with atomic_write(result, "wb") as file:
        for shard in shards:
            file.write(shard.manifest.read_bytes())
    remove_others(archive_dir, split, shards)
    logger.info("%s: %s, %.1f MB", split, result, sum(s.archive.stat().st_size for s in shards) / 1e6)


def plan_shards(manifest: IndexedManifest, archive_dir: Path, split: str, preset: str) -> list[Shard]:
    """Deal the cuts into shards and name each after what it is made from."""
    size = min(max(len(manifest) // USUAL_SHARDS, SMALLEST_SHARD), LARGEST_SHARD)
    shards = []
    for number, start in enumerate(range(0, len(manifest), size)):
        end = min(start + size, len(manifest))
        digest = hashlib.sha256(repr((FEATURES_VERSION, TICK_POWER, preset, PRESETS[preset])).encode())
        for index in range(start, end):
            record = manifest.record(index)
            digest.update(json.dumps(record, sort_keys=True).encode())
            digest.update(repr(file_stamp(audio_path(record))).encode())
        name = f"{split}-{number:05d}-{digest.hexdigest()[:12]}"
        shards.append(Shard(start, end, archive_dir / f"{name}.lca", archive_dir / f"{name}.jsonl"))
    return shards


def file_stamp(path: str) -> tuple[int, int] | None:
    """Size and time of an audio file; None for what is no file."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def is_finished(shard: Shard) -> bool:
    """Whether the shard's manifest is there, whole, and its archive as long as the manifest says."""
    try:
        lines = shard.manifest.read_bytes().splitlines()
        if len(lines) != shard.end - shard.start:
            return False
        # A key is the offset of the first chunk and the sizes of all: their sum is where the matrix ends.
        key = json.loads(lines[-1])["features"]["storage_key"]
        return shard.archive.stat().st_size == sum(map(int, key.split(",")))
    except (OSError, ValueError, KeyError):
        return False


def extract_shard(manifest: IndexedManifest, preset: str, shard: Shard) -> None:
    """Compute and store the features of one shard; its manifest appears when all is there."""
    frontend = Frontend(preset)
    temporary = shard.archive.with_name(f".{shard.archive.stem}.{os.getpid()}.lca")
    lines = []
    try:
        with LilcomChunkyWriter(temporary, tick_power=TICK_POWER) as writer:
            for record, features in features_of(manifest, range(shard.start, shard.end), frontend):
                key = writer.write(record["id"], features)
                lines.append(json.dumps(with_features(record, features, key, shard.archive, preset)) + "\n")
        temporary.replace(shard.archive)
    finally:
        temporary.unlink(missing_ok=True)
    with atomic_write(shard.manifest) as file:
        file.writelines(lines)


def features_of(
    manifest: IndexedManifest, positions: range, frontend: Frontend
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Each cut and its raw log-mel (T,F), computed in batches."""
    pending: list[tuple[dict[str, Any], np.ndarray]] = []
    for position in positions:
        record = manifest.record(position)
        samples = load_audio(record)
        longest = max(len(clip) for _, clip in [*pending, (record, samples)])
        if pending and (len(pending) == MAX_BATCH_CLIPS or longest * (len(pending) + 1) > MAX_BATCH_SAMPLES):
            yield from extract_batch(pending, frontend)
            pending = []
        pending.append((record, samples))
    if pending:
        yield from extract_batch(pending, frontend)


def extract_batch(
    clips: list[tuple[dict[str, Any], np.ndarray]], frontend: Frontend
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Features of some cuts with their samples."""
    for record, samples in clips:
        if frontend.num_frames(len(samples)) < 1:
            raise DataError(
                f"clip {record['id']}: {len(samples)} samples are too short for one frame: raise "
                "corpus.min_duration_s and run stage 1 again"
            )
    lengths = torch.tensor([len(samples) for _, samples in clips])
    raw, frames = frontend.extract(pad([samples for _, samples in clips]), lengths)
    for (record, _), matrix, count in zip(clips, raw, frames.tolist(), strict=True):
        yield record, matrix[:count].numpy()


def with_features(
    record: dict[str, Any], features: np.ndarray, key: str, archive: Path, preset: str
) -> dict[str, Any]:
    """The cut with a pointer to its features; one of several channels becomes a plain cut, mixed down."""
    return {
        **record,
        "type": "MonoCut",
        "channel": 0,
        "features": {
            "type": preset,
            "num_frames": features.shape[0],
            "num_features": features.shape[1],
            "frame_shift": FRAME_SHIFT / SAMPLING_RATE,
            "sampling_rate": SAMPLING_RATE,
            "start": record["start"],
            "duration": record["duration"],
            "storage_type": LilcomChunkyWriter.name,
            "storage_path": str(archive),
            "storage_key": key,
            "recording_id": record["recording"]["id"],
            "channels": 0,
        },
    }


def remove_others(archive_dir: Path, split: str, shards: list[Shard]) -> None:
    """Delete the split's archives of earlier cuts or settings, which no manifest points at any more."""
    wanted = {path for shard in shards for path in (shard.archive, shard.manifest)}
    for pattern in (f"{split}-*", f".{split}-*"):
        for path in archive_dir.glob(pattern):
            if path not in wanted:
                path.unlink(missing_ok=True)
