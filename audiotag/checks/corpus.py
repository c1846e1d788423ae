"""The prepared corpus: splits, coverage, classes, and whether a sample of the files can be read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from audiotag.checks.finding import Finding, fail, failed, ok, warn
from audiotag.config import Config
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio, load_features
from audiotag.data.splits import manifest_path, open_split, read_coverage, read_labels
from audiotag.errors import AudiotagError, ConfigError, DataError

LITTLE_COVERAGE = 0.9
NAMED = 3


def check_corpus(config: Config, data_dir: Path, num_clips: int) -> list[Finding]:
    """What stages 1 and 2 left, or, before them, the corpus itself.

    num_clips: how many of each split are read as a sample.
    """
    if not (data_dir / "manifests" / "cuts_train.jsonl").is_file():
        return [check_source(config)]
    try:
        coverage, labels = read_coverage(data_dir), read_labels(data_dir)
    except AudiotagError as error:
        return [failed("corpus", error)]
    findings = [check_coverage(coverage)]
    for split in ("train", "valid", "eval"):
        if split in coverage:
            findings += check_split(config, data_dir, split, num_clips)
    try:
        train = open_split(data_dir, "train", preset=config.features.preset, storage="on_the_fly")
    except AudiotagError as error:
        return [*findings, failed("classes", error)]
    return [*findings, check_classes(train, [label.name for label in labels])]


def check_source(config: Config) -> Finding:
    """The folder or list that the configuration names."""
    place = config.corpus.dir
    if place is None:
        return fail(
            "corpus", "corpus.dir is not set", "write its folder into db.sh, or set the key", ConfigError
        )
    path = Path(place)
    if not path.exists():
        return fail("corpus", f"{path} is not there", "run stage 0, or correct corpus.dir", DataError)
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        return fail("corpus", f"{path} cannot be read", "check its permissions", DataError)
    return warn(
        "corpus", f"{path} is there, but not prepared", "stages 1 to 4 do that, and look at each file"
    )


def check_coverage(coverage: dict) -> Finding:
    """Clips present of clips listed."""
    counts = {name: entry for name, entry in coverage.items() if name != "notes"}
    text = ", ".join(f"{name} {entry['present']} of {entry['listed']}" for name, entry in counts.items())
    low = [name for name, entry in counts.items() if entry["present"] < LITTLE_COVERAGE * entry["listed"]]
    if low:
        advice = (
            "skipped_<split>.csv in data/manifests says why; results on a part are not those on the whole"
        )
        return warn("corpus", f"clips present of listed: {text}", advice)
    return ok("corpus", f"clips present of listed: {text}")


def check_split(config: Config, data_dir: Path, split: str, num_clips: int) -> list[Finding]:
    """Read a sample of a split, spread evenly over it."""
    preset, storage = config.features.preset, config.features.storage
    if storage == "stored" and not manifest_path(data_dir, split, preset=preset, storage=storage).is_file():
        return [warn(split, "its features are not stored yet", "stage 2 makes them")]
    try:
        manifest = open_split(data_dir, split, preset=preset, storage=storage)
    except AudiotagError as error:
        return [failed(split, error)]
    sample = read_sample(split, manifest, storage, num_clips)
    if sample.level == "fail":
        return [sample]
    hours = float(manifest.durations.sum()) / 3600
    return [ok(split, f"{len(manifest)} clips, {hours:.2f} h; {sample.text}")]


def read_sample(subject: str, manifest: IndexedManifest, storage: str, num_clips: int) -> Finding:
    """Whether so many clips, spread evenly over a manifest, can be read."""
    if not len(manifest):
        return fail(subject, "it has no clips", "look at skipped_<split>.csv beside its manifest", DataError)
    chosen = np.unique(np.linspace(0, len(manifest) - 1, num_clips).astype(int))
    problems = []
    for position in chosen:
        record = manifest.record(int(position))
        try:
            load_features(record) if storage == "stored" else load_audio(record)
        except AudiotagError as error:
            problems.append(str(error))
    if problems:
        shown = "; ".join(problems[:NAMED])
        text = f"{len(problems)} of a sample of {len(chosen)} clips cannot be read: {shown}"
        return fail(subject, text, "restore the files, or run stage 1 again with --force", DataError)
    return ok(subject, f"all {len(chosen)} of a sample can be read")


def check_classes(train: IndexedManifest, names: list[str]) -> Finding:
    """Classes that nothing can be learnt of, since no clip of train has them."""
    counts = np.bincount(train.label_ids, minlength=len(names))
    without = [name for name, count in zip(names, counts, strict=False) if count == 0]
    text = f"{len(names)} classes; clips of train with a class: {counts.min()} to {counts.max()}"
    if without:
        shown = ", ".join(without[:NAMED]) + (", ..." if len(without) > NAMED else "")
        return warn("classes", f"{text}; {len(without)} have none ({shown})", "they cannot be learnt")
    return ok("classes", text)
