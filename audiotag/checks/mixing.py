"""What training mixes in from elsewhere: recordings of noise, and the train sets of other recipes."""

from __future__ import annotations

from pathlib import Path

from audiotag.checks.corpus import read_sample
from audiotag.checks.finding import Finding, failed, ok, warn
from audiotag.config import Config, Source
from audiotag.corpora.musan import find_recordings
from audiotag.corpora.stats import load_sampling_weights
from audiotag.data.index import IndexedManifest
from audiotag.data.noise import noise_path
from audiotag.data.sources import check_held_out, open_source
from audiotag.data.splits import open_split, read_labels
from audiotag.errors import AudiotagError


def check_mixing(config: Config, data_dir: Path, num_clips: int) -> list[Finding]:
    """Each of them that the configuration asks for.

    num_clips: how many of each are read as a sample.
    """
    findings = [check_noise(config, data_dir, num_clips)] if config.augment.noise else []
    others = [source for source in config.data.sources or () if source.data_dir is not None]
    return findings + [check_source(config, source, data_dir, num_clips) for source in others]


def check_noise(config: Config, data_dir: Path, num_clips: int) -> Finding:
    """What stage 3 left, or, before it, the corpus that it takes."""
    path = noise_path(data_dir, config.features.preset)
    try:
        if not path.is_file():
            folder = config.augment.noise.dir
            text = f"{len(find_recordings(folder))} recordings are in {folder}, not prepared"
            return warn("noise", text, "stage 3 does that, and looks at each file")
        manifest = IndexedManifest([path])
        sample = read_sample("noise", manifest, config.features.storage, num_clips)
    except (AudiotagError, OSError) as error:
        return failed("noise", error)
    return ok("noise", f"{len(manifest)} cuts; {sample.text}") if sample.level == "ok" else sample


def check_source(config: Config, source: Source, data_dir: Path, num_clips: int) -> Finding:
    """The train set of another recipe, as training will open it."""
    place = Path(source.data_dir)
    features = {"preset": config.features.preset, "storage": config.features.storage}
    try:
        manifest = open_split(place, "train", **features)
        # Before stage 1 there are no labels and held-out clips of this recipe to compare with.
        if (data_dir / "manifests" / "cuts_train.jsonl").is_file():
            unknown = source.missing_classes == "unknown"
            theirs = open_source(place, read_labels(data_dir), **features, missing_are_unknown=unknown)
            check_held_out(theirs, data_dir, **features)
        if config.data.sampling == "weighted":
            load_sampling_weights(place, config.features.stats_name, manifest)
        sample = read_sample("source", manifest, config.features.storage, num_clips)
    except (AudiotagError, OSError) as error:
        return failed("source", error)
    return ok("source", f"{place}: {len(manifest)} clips; {sample.text}") if sample.level == "ok" else sample
