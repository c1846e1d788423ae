"""Where a model lies that somebody names: a file or folder here, or a name on the Hugging Face hub.

What exists as a path wins. Only the files that are read are fetched from the hub, into its ordinary cache;
with HF_HUB_OFFLINE=1 the cache alone is asked.
"""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from audiotag.errors import CheckpointError, ConfigError
from audiotag.interop.huggingface import CONFIG_FILE, EXTRACTOR_FILE, INDEX_SUFFIX, LABELS_FILE, WEIGHT_FILES
from audiotag.places import is_hub_name

logger = logging.getLogger(__name__)

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
# Formats whose models have names on the hub.
ON_THE_HUB = ("auto", "hf")


def find_model(place: str, key: str, model_format: str) -> Path:
    """The file or folder of a model, fetched from the hub where its name is one of that.

    Args:
        place: as it is named, with variables replaced.
        key: of the configuration, or the argument, for errors.
        model_format: a key of the table of formats, or `auto`.
    """
    path = Path(place).expanduser()
    if path.exists():
        return path
    if model_format in ON_THE_HUB and is_hub_name(place):
        return fetch(place, key)
    raise CheckpointError(f"{key}: there is no file or folder {place}")


def fetch(name: str, key: str) -> Path:
    """The folder of a model of the hub in its cache."""
    patterns = [CONFIG_FILE, EXTRACTOR_FILE, LABELS_FILE]
    for weights in WEIGHT_FILES:
        stem, _, suffix = weights.partition(".")
        folder = download(
            name, key, [*patterns, weights, f"{weights}{INDEX_SUFFIX}", f"{stem}-*-of-*.{suffix}"]
        )
        if any(folder.glob(f"{stem}*")):
            return folder
    raise CheckpointError(f"{key}: {name} on the hub has no weights: neither {' nor '.join(WEIGHT_FILES)}")


def download(name: str, key: str, patterns: list[str]) -> Path:
    """Files of a model of the hub."""
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise ConfigError(
            f"{key}: there is no file or folder {name}; for a name on the Hugging Face hub the package "
            "huggingface_hub is needed: pip install -e '.[hf]'"
        ) from None
    logger.debug("asking the hub for %s", name)
    for client in ("httpx", "httpx2"):  # of older and newer versions; they log every request
        logging.getLogger(client).setLevel(logging.WARNING)
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{key}: {name} on the Hugging Face hub is given only to those who accepted its terms: accept "
            "them on its page and log in (hf auth login)"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{key}: there is no file or folder {name}, and no public model of that name on the Hugging Face "
            "hub; for a private one log in (hf auth login)"
        ) from None
    except Exception as error:  # the client has an error for each way in which it can fail
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        raise CheckpointError(
            f"{key}: there is no file or folder {name}, the Hugging Face hub cannot be reached "
            f"({type(error).__name__}), and its cache does not hold {name}: fetch it on a machine that "
            "reaches the hub, and give the path of its folder"
        ) from None
