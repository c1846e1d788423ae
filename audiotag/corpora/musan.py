"""Stage 3: noise recordings in MUSAN's layout as cuts of at most 10 s, with stored features where needed.

data/noise/cuts_noise.jsonl              windows of the recordings
data/noise/skipped_noise.csv             recordings that cannot be used, and why
data/noise/<preset>/cuts_noise.jsonl     what training reads
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiotag.corpora.audiofiles import AUDIO_EXTENSIONS, walk_files
from audiotag.corpora.features import extract_features
from audiotag.corpora.manifests import Clip, Skipped, cut_of, write_cuts, write_skipped
from audiotag.corpora.probecache import probe_files
from audiotag.data.index import IndexedManifest
from audiotag.data.noise import noise_path
from audiotag.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

PARTS = ("music", "speech", "noise")
WINDOW_S = 10.0
SHORTEST_S = 5.0  # windows must be longer than this


def prepare_musan(data_dir: Path, *, dir: str | None, preset: str, storage: str, num_jobs: int = 1) -> None:
    """Make the noise manifest.

    Args:
        data_dir: gets a folder `noise`.
        dir: the noise corpus, with folders `music`, `speech`, `noise` or some of them.
        preset, storage: keys of the configuration's `features` section.
        num_jobs: processes.
    """
    noise_dir = data_dir / "noise"
    paths = find_recordings(dir)
    probes = probe_files(paths, cache=noise_dir / "probes.jsonl", num_jobs=num_jobs)
    skipped = [
        Skipped(Path(path).stem, path, probe.problem) for path, probe in probes.items() if probe.problem
    ]
    write_skipped(noise_dir / "skipped_noise.csv", skipped)
    if skipped:
        logger.warning(
            "%d of %d noise recordings cannot be used; they are in %s",
            len(skipped),
            len(paths),
            noise_dir / "skipped_noise.csv",
        )
    windows = [
        window
        for path in paths
        if not probes[path].problem
        for window in cut_windows(Clip(path.removeprefix(f"{Path(dir).absolute()}/"), path, probes[path], ()))
    ]
    if not windows:
        raise DataError(
            f"{dir}: none of {len(paths)} noise recordings can be used; each must be longer than "
            f"{SHORTEST_S:g} s; unreadable ones are in {noise_dir / 'skipped_noise.csv'}"
        )
    logger.info(
        "noise: %d windows, %.2f h", len(windows), sum(window["duration"] for window in windows) / 3600
    )
    plain = noise_dir / "cuts_noise.jsonl"
    write_cuts(plain, windows)
    if storage == "stored":
        extract_features(
            IndexedManifest(plain), noise_path(data_dir, preset), preset=preset, num_jobs=num_jobs
        )
    else:
        write_cuts(noise_path(data_dir, preset), windows)


def find_recordings(dir: str | None) -> list[str]:
    """All audio files below the corpus' parts, in alphabetical order."""
    if dir is None:
        raise ConfigError(
            "augment.noise.dir is not set: name the MUSAN folder in db.sh, or mix no noise with "
            "augment.noise=null"
        )
    folders = [Path(dir).absolute() / part for part in PARTS]
    present = [folder for folder in folders if folder.is_dir()]
    if not present:
        raise DataError(f"{dir}: none of the folders {', '.join(PARTS)} is there (augment.noise.dir)")
    paths = sorted(
        path
        for folder in present
        for name, path in walk_files(folder)
        if name.rpartition(".")[2].lower() in AUDIO_EXTENSIONS
    )
    if not paths:
        raise DataError(f"{dir}: no audio files in {', '.join(folder.name for folder in present)}")
    return paths


def cut_windows(clip: Clip) -> Iterator[dict[str, Any]]:
    """Cuts of at most 10 s, one after the other, without a last one that is too short."""
    number = 0
    while (left := clip.probe.duration_s - number * WINDOW_S) > SHORTEST_S:
        yield cut_of(clip, number=number, start_s=number * WINDOW_S, duration_s=min(left, WINDOW_S))
        number += 1
