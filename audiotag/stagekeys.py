"""What each stage of a recipe depends on, as a hash: a finished stage whose key is unchanged is skipped."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

from audiotag.config import Config
from audiotag.configcorpus import AudioSetCorpus, CutsCorpus, Esc50Corpus, Preparation, SpeechCommandsCorpus
from audiotag.configevaluation import WeightChoice
from audiotag.corpora.classfolders import audio_below
from audiotag.corpora.csvlist import labels_path, list_path
from audiotag.corpora.esc50 import LIST as ESC50_LIST
from audiotag.corpora.versions import FEATURES_VERSION, PROBE_VERSION
from audiotag.errors import ConfigError, DataError
from audiotag.places import of_this_fold, resolve_place

# Settings of how a run goes about its work, which leave its result what it is.
RUNTIME_KEYS = (
    "data.num_workers",
    "data.max_unreadable",
    "training.tf32",
    "training.compile",
    "training.activation_checkpointing",
    "training.log_every",
    "training.save_every_steps",
    "training.keep_last",
    "training.keep_last_steps",
    "training.keep_best",
    "training.max_overflows",
    "training.peak_tflops",
    "training.timeout_s",
)


def stage_keys(config: Config) -> dict[str, str]:
    """Key by stage number (as text), each chained with those of the stages it builds on."""
    corpus = config.corpus.model_dump(mode="json")
    features = config.features
    noise = config.augment.noise
    rest = config.model_dump(mode="json", exclude={"evaluation", "title", "corpus"})
    for key in RUNTIME_KEYS:
        section, name = key.split(".")
        del rest[section][name]
    # Where nothing is chosen among a run's weights, these say nothing.
    for name in set(WeightChoice.model_fields).difference(config.init.chosen_keys):
        del rest["init"][name]
    if rest["loss"]["class_weights"] not in ("none", "balanced"):
        rest["loss"]["class_weights"] = file_digest(Path(rest["loss"]["class_weights"]))
    manifests = digest("manifests", PROBE_VERSION, corpus, corpus_digests(config.corpus))
    fbank = digest("fbank", FEATURES_VERSION, manifests, features.preset, features.storage)
    noise_dir = noise.dir if noise else None
    noise_fbank = digest(
        "noise", FEATURES_VERSION, noise is not None, noise_dir, features.preset, features.storage
    )
    stats = digest("stats", fbank, features.target_frames)
    train = digest("train", manifests, fbank, noise_fbank, stats, rest, source_stamps(config))
    evaluate = digest("evaluate", train, config.evaluation.model_dump(mode="json"))
    return {
        "1": manifests,
        "2": fbank,
        "3": noise_fbank,
        "4": stats,
        "5": train,
        "6": evaluate,
        "7": digest("report", evaluate, config.title),
        "8": digest("export", evaluate),  # the thresholds of evaluations are packed too
    }


def corpus_digests(corpus: Preparation) -> dict[str, object]:
    """Hashes of what lists a corpus' clips and classes, so that an edited list redoes the stages."""
    if corpus.dir is None:
        return {}
    folder = Path(corpus.dir)
    if isinstance(corpus, AudioSetCorpus):
        lists = (corpus.labels, *corpus.train_lists, *corpus.eval_lists)
        return {name: file_digest(folder / name) for name in lists}
    if isinstance(corpus, Esc50Corpus):
        return {"clips": file_digest(folder / ESC50_LIST)}
    if isinstance(corpus, SpeechCommandsCorpus):
        lists = {name: file_digest(folder / name) for name in (corpus.valid_list, corpus.eval_list)}
        return {"clips": folder_digest(folder), **lists}
    if isinstance(corpus, CutsCorpus):
        names = (*corpus.train_cuts, *corpus.valid_cuts, *corpus.eval_cuts)
        # Manifests of millions of cuts are not read for every look at the keys.
        stamps = {name: file_stamp(folder / name) for name in names}
        return {corpus.labels: file_digest(folder / corpus.labels), **stamps}
    clips = list_path(corpus.dir, corpus.list)
    digests = {"clips": folder_digest(folder) if clips is None else file_digest(clips)}
    if corpus.labels is not None:
        digests["labels"] = file_digest(labels_path(corpus.dir, corpus.labels))
    return digests


def file_digest(path: Path) -> str | None:
    """A hash of a file's content; None where it cannot be read, which the stage itself will complain of."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def file_stamp(path: Path) -> list[int] | None:
    """Size and time of a file; None where it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def folder_digest(folder: Path) -> str | None:
    """A hash of the names and sizes of all audio files below a folder; None where it cannot be listed."""
    try:
        files = sorted((path, Path(path).stat().st_size) for _, path in audio_below(folder, Counter()))
    except (OSError, DataError):
        return None
    return digest([[path, size] for path, size in files])


def source_stamps(config: Config) -> list[list[object]]:
    """What shows that another recipe, whose clips join in the training, made them anew."""
    stamps = []
    for source in config.data.sources or ():
        if source.data_dir is None:
            continue
        folder = Path(source.data_dir)
        stored = config.features.storage == "stored"
        cuts = folder / (f"fbank/{config.features.preset}" if stored else "manifests") / "cuts_train.jsonl"
        stamps.append([file_digest(folder / "manifests" / "labels.csv"), file_stamp(cuts)])
    return stamps


def start_path(config: Config) -> str:
    """The file or folder that training starts from, empty where there is none.

    The driver looks whether it has changed since. It is no part of a key, since a model that is gone must not
    undo what was trained from it.
    """
    return existing_path(config.init.model, "init.model", config) if config.init.model is not None else ""


def teacher_paths(config: Config) -> list[str]:
    """The files and folders of the teachers that are there, of which the same is true."""
    places = config.distillation.teachers if config.distillation else []
    return [path for place in places if (path := existing_path(place, "distillation.teachers", config))]


def existing_path(place: str, key: str, config: Config) -> str:
    """What a key of the configuration names, empty where that is not there."""
    try:
        place = of_this_fold(resolve_place(place, key), getattr(config.corpus, "fold", None))
    except ConfigError:
        return ""
    path = Path(place).expanduser()
    return str(path.absolute()) if path.exists() else ""


def digest(*parts: object) -> str:
    """A short, stable hash of JSON-serialisable parts."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
