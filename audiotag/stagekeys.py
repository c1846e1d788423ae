"""What each stage of a recipe depends on, as a hash: a finished stage whose key is unchanged is skipped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from audiotag.config import Config
from audiotag.corpora.versions import FEATURES_VERSION, PROBE_VERSION

# Settings of how a run goes about its work, which leave its result what it is.
RUNTIME_KEYS = (
    "data.num_workers",
    "training.tf32",
    "training.compile",
    "training.log_every",
    "training.keep_last",
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
    choice = config.evaluation.model_dump(mode="json", include={"best", "epoch", "avg"})
    manifests = digest("manifests", PROBE_VERSION, corpus, list_digests(config))
    fbank = digest("fbank", FEATURES_VERSION, manifests, features.preset, features.storage)
    noise_dir = noise.dir if noise else None
    noise_fbank = digest(
        "noise", FEATURES_VERSION, noise is not None, noise_dir, features.preset, features.storage
    )
    stats = digest("stats", fbank, features.target_frames)
    train = digest("train", manifests, fbank, noise_fbank, stats, rest)
    evaluate = digest("evaluate", train, config.evaluation.model_dump(mode="json"))
    return {
        "1": manifests,
        "2": fbank,
        "3": noise_fbank,
        "4": stats,
        "5": train,
        "6": evaluate,
        "7": digest("report", evaluate, config.title),
        "8": digest("export", train, choice),
    }


def list_digests(config: Config) -> dict[str, str | None]:
    """Hashes of the corpus' label and segment lists, so that an edited list redoes the stages."""
    corpus = config.corpus
    if corpus.dir is None:
        return {}
    digests: dict[str, str | None] = {}
    for name in (corpus.labels, *corpus.train_lists, *corpus.eval_lists):
        path = Path(corpus.dir) / name
        digests[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    return digests


def digest(*parts: object) -> str:
    """A short, stable hash of JSON-serialisable parts."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
