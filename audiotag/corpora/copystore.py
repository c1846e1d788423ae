"""The copies of a corpus' sound in the folder `data/audio`: what they are called, and which are there.

    data/audio/<xx>/<id>-<key>.flac    .wav with floating-point samples where FLAC would clip
    data/audio/copies.jsonl            name, samples and bytes of each finished copy

The key is a hash of what is copied: the decoded sound of the file and the part of it. So a copy is found
again by a later run, and one whose file has changed is not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import soundfile

from audiotag.atomic import atomic_write
from audiotag.corpora.journal import journal_line, read_journal
from audiotag.corpora.manifests import Clip

logger = logging.getLogger(__name__)

# Raise it, and PROBE_VERSION, when copies come out differently.
COPY_VERSION = 1
JOURNAL = "copies.jsonl"
KEY_BYTES = 8
MAX_ID_CHARACTERS = 60
COPY_NAME = re.compile(rf"\.?[\w.+-]*-([0-9a-f]{{{2 * KEY_BYTES}}})\.(flac|wav)(\.[0-9a-f]+\.tmp)?", re.ASCII)


class Copy(NamedTuple):
    """A finished copy: its name below the folder of copies, and how long and large it is."""

    name: str
    num_samples: int
    num_bytes: int


def copy_stem(clip: Clip) -> str:
    """The name of a clip's copy without extension; the id is there for people, the key is what counts."""
    content = [COPY_VERSION, clip.id, clip.probe.sound, clip.start_s, clip.length_s]
    key = hashlib.blake2b(json.dumps(content).encode(), digest_size=KEY_BYTES).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9_.+-]", "_", clip.id)[-MAX_ID_CHARACTERS:]
    return f"{key[:2]}/{readable}-{key}"


def noted_copies(audio_dir: Path) -> dict[str, Copy]:
    """The copies that earlier runs have finished, by stem."""
    copies = {}
    for version, *fields in read_journal(audio_dir / JOURNAL):
        if version == COPY_VERSION:
            copy = Copy(*fields)
            copies[copy.name.rpartition(".")[0]] = copy
    return copies


def is_whole(copy: Copy, audio_dir: Path) -> bool:
    """Whether a copy is still there as it was written."""
    try:
        return (audio_dir / copy.name).stat().st_size == copy.num_bytes
    except OSError:
        return False


def find_copy(audio_dir: Path, stem: str) -> Copy | None:
    """The copy of this name, if it is there; since copies are renamed when they are whole, it is whole."""
    for extension in ("flac", "wav"):
        path = audio_dir / f"{stem}.{extension}"
        try:
            return Copy(f"{stem}.{extension}", soundfile.info(path).frames, path.stat().st_size)
        except (OSError, soundfile.LibsndfileError):
            continue
    return None


def remove_copies(audio_dir: Path, *, except_for: Iterable[str]) -> None:
    """Remove the copies that no clip refers to; files that are no copies stay."""
    if not (audio_dir / JOURNAL).is_file():
        return
    folder = str(audio_dir.absolute())
    used = {path.removeprefix(f"{folder}/") for path in except_for}
    unused = [name for name in names_of_copies(folder) if name not in used]
    if not unused:
        return
    logger.info("removing %d files below %s that no clip needs any more", len(unused), folder)
    for name in unused:
        (audio_dir / name).unlink()
    for shard in {name.partition("/")[0] for name in unused}:
        remove_if_empty(audio_dir / shard)
    kept = [copy for copy in noted_copies(audio_dir).values() if copy.name in used]
    if kept:
        with atomic_write(audio_dir / JOURNAL) as journal:
            journal.writelines(journal_line([COPY_VERSION, *copy]) for copy in kept)
    else:
        (audio_dir / JOURNAL).unlink()
        remove_if_empty(audio_dir)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder unless somebody has put other files there."""
    with suppress(OSError):
        folder.rmdir()


def names_of_copies(folder: str) -> Iterator[str]:
    """Names below a folder of all files that are copies, or that an interrupted run has left half."""
    with os.scandir(folder) as shards:
        for shard in shards:
            if len(shard.name) == 2 and shard.is_dir(follow_symlinks=False):
                with os.scandir(shard.path) as files:
                    for file in files:
                        match = COPY_NAME.fullmatch(file.name)
                        if match and match[1].startswith(shard.name):
                            yield f"{shard.name}/{file.name}"
