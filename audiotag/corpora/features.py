"""Stage 2: store log-mel features, compressed by lilcom, beside manifests that point at them.

The cuts of a split are dealt into shards (`shards.py`) that processes make side by side. Shards that are
finished are kept when a run was interrupted; those that are damaged, or were made from other cuts, audio
files or settings, are made again.

lilcom rounds each value to a multiple of 2**-5 (`TICK_POWER`): stored features differ by up to 0.016, in a
natural logarithm of energy, from computed ones.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.features.compression import lilcom_compress_chunked
from lhotse.features.io import LilcomChunkyWriter

from audiotag.atomic import atomic_write
from audiotag.corpora.arraytask import ArrayTask
from audiotag.corpora.parallel import parallel_map
from audiotag.corpora.shards import (
    Shard,
    inspect_shard,
    read_cuts,
    remove_other_shards,
    shard_bounds,
    write_shard_manifest,
)
from audiotag.corpora.versions import FEATURES_VERSION
from audiotag.data.featurefile import CHECKSUM
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio
from audiotag.data.padding import pad
from audiotag.data.splits import manifest_path, open_split, read_coverage
from audiotag.errors import DataError
from audiotag.frontend import FRAME_SHIFT, PRESETS, SAMPLING_RATE, Frontend
from audiotag.logs import progress
from audiotag.writable import check_writable

logger = logging.getLogger(__name__)

TICK_POWER = -5
MAX_BATCH_CLIPS = 16
MAX_BATCH_SAMPLES = MAX_BATCH_CLIPS * 10 * SAMPLING_RATE


def extract_splits(data_dir: Path, *, preset: str, num_jobs: int = 1, task: ArrayTask | None = None) -> None:
    """Store the features of every split that stage 1 made, in `data_dir`/fbank/<preset>.

    A `valid` that is the same as `eval` gets the manifest of that, not features of its own. A task of a job
    array stores its share and writes no manifest.
    """
    results = {
        split: manifest_path(data_dir, split, preset=preset, storage="stored")
        for split in ("train", "eval", "valid")
    }
    for split in ("train", "eval"):
        manifest = open_split(data_dir, split, preset=preset, storage="on_the_fly")
        extract_features(manifest, results[split], preset=preset, num_jobs=num_jobs, task=task)
    valid = read_coverage(data_dir).get("valid")
    if valid is not None and "same_as" not in valid:
        manifest = open_split(data_dir, "valid", preset=preset, storage="on_the_fly")
        extract_features(manifest, results["valid"], preset=preset, num_jobs=num_jobs, task=task)
    if task is not None or (valid is not None and "same_as" not in valid):
        return
    # An earlier configuration may have held out clips of its own.
    remove_other_shards(archives_of(results["valid"]), "valid", [])
    if valid is None:
        results["valid"].unlink(missing_ok=True)
        results["valid"].with_name(results["valid"].name + ".idx").unlink(missing_ok=True)
    else:
        with atomic_write(results["valid"], "wb") as file:
            file.write(results[valid["same_as"]].read_bytes())


def take_over_splits(data_dir: Path, *, preset: str) -> None:
    """Let every split's manifest of stored features be that of stage 1, whose cuts have features already."""
    coverage = read_coverage(data_dir)
    for split in ("train", "valid", "eval"):
        result = manifest_path(data_dir, split, preset=preset, storage="stored")
        remove_other_shards(archives_of(result), split, [])
        if split not in coverage:
            result.unlink(missing_ok=True)
            result.with_name(result.name + ".idx").unlink(missing_ok=True)
            continue
        manifest = open_split(data_dir, split, preset=preset, storage="on_the_fly")
        with manifest.paths[0].open("rb") as source, atomic_write(result, "wb") as file:
            shutil.copyfileobj(source, file)
        logger.info("%s: the stored features of %d cuts are used as they are", split, len(manifest))


def extract_features(
    manifest: IndexedManifest,
    result: Path,
    *,
    preset: str,
    num_jobs: int = 1,
    task: ArrayTask | None = None,
) -> None:
    """Store the features of all cuts of a manifest.

    Args:
        manifest: the cuts.
        result: the manifest to write, `cuts_<split>.jsonl`; the archives go to a folder beside it.
        preset: of the front end.
        num_jobs: processes.
        task: only make the shards of this task of a job array; no manifest is written.
    """
    split = result.stem.removeprefix("cuts_")
    archives = archives_of(result)
    check_writable(archives)
    archives.mkdir(parents=True, exist_ok=True)
    settings = (FEATURES_VERSION, TICK_POWER, preset, PRESETS[preset])
    bounds = shard_bounds(manifest.durations)
    if task is not None:
        bounds = task.share(bounds)
    inspect = partial(inspect_shard, manifest, archives, split, settings)
    looks = parallel_map(inspect, bounds, num_jobs)
    shards = list(progress(looks, len(bounds), f"checking {split}", unit="shards"))
    for shard in shards:
        if shard.fault:
            logger.warning("%s: %s: making this part again", archives, shard.fault)
    pending = [shard for shard in shards if shard.fault is not None]
    logger.info("%s: %d cuts in %d shards, %d to do", split, len(manifest), len(shards), len(pending))
    made = parallel_map(partial(extract_shard, manifest, preset), pending, num_jobs)
    for _ in progress(made, len(pending), f"features {split}", unit="shards"):
        pass
    if task is not None:
        return
    with atomic_write(result, "wb") as file:
        for shard in shards:
            file.write(read_cuts(shard))
    remove_other_shards(archives, split, shards)
    logger.info("%s: %s, %.1f MB", split, result, sum(s.archive.stat().st_size for s in shards) / 1e6)


def archives_of(result: Path) -> Path:
    """The folder of archives that belong to a manifest."""
    return result.parent.absolute() / "archives"


def extract_shard(manifest: IndexedManifest, preset: str, shard: Shard) -> None:
    """Compute and store the features of one shard; its manifest appears when all is there."""
    frontend = Frontend(preset)
    lines, offset, checksum = [], 0, 0
    with atomic_write(shard.archive, "wb") as file:
        for record, features in features_of(manifest, range(shard.start, shard.end), frontend):
            chunks = lilcom_compress_chunked(
                features, tick_power=TICK_POWER, chunk_size=LilcomChunkyWriter.CHUNK_SIZE
            )
            # lhotse's form of a key: where the matrix starts, and the bytes of each of its chunks.
            key = ",".join(map(str, (offset, *map(len, chunks))))
            matrix = b"".join(chunks)
            cut = with_features(record, features, key, zlib.crc32(matrix), shard.archive, preset)
            lines.append(json.dumps(cut) + "\n")
            file.write(matrix)
            checksum = zlib.crc32(matrix, checksum)
            offset += len(matrix)
    write_shard_manifest(shard, lines, archive_bytes=offset, archive_crc32=checksum)


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
    record: dict[str, Any], features: np.ndarray, key: str, crc32: int, archive: Path, preset: str
) -> dict[str, Any]:
    """The cut with a pointer to its features; one of several channels becomes a plain cut, mixed down."""
    return {
        **record,
        "type": "MonoCut",
        "channel": 0,
        "custom": {CHECKSUM: crc32},
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
