"""Prepare Speech Commands in its own layout: a folder of clips for each word, and two lists of clips.

What a list names is valid or eval, all other clips are train. Folders that begin with an underscore are not
words: `_background_noise_` holds long recordings without speech.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from audiotag.configcorpus import SpeechCommandsCorpus
from audiotag.corpora.arraytask import ArrayTask
from audiotag.corpora.audioset import check_dir
from audiotag.corpora.classes import warn_of_classes_without_clips
from audiotag.corpora.classfolders import audio_below, class_name
from audiotag.corpora.entries import split_extension
from audiotag.corpora.preparation import Listed, prepare_splits
from audiotag.corpora.probe import is_utf8
from audiotag.errors import ConfigError, DataError
from audiotag.fields import shown
from audiotag.labels import Label, LabelTable

logger = logging.getLogger(__name__)


def prepare_speechcommands(
    manifests_dir: Path, settings: SpeechCommandsCorpus, *, num_jobs: int = 1, task: ArrayTask | None = None
) -> None:
    """Run stage 1 on Speech Commands.

    Args:
        manifests_dir: where cuts, labels, skipped clips and coverage go.
        settings: the configuration's `corpus` section.
        num_jobs: processes that open audio files.
        task: only open the share of this task of a job array, and remember what is in it.
    """
    if settings.valid == "eval":
        raise ConfigError(
            f"corpus.valid is eval, but Speech Commands has a list of its own ({settings.valid_list}): leave "
            "the key out"
        )
    folder = check_dir(settings.dir)
    names = {"valid": settings.valid_list, "eval": settings.eval_list}
    # The lists first: a mistaken folder is noticed before a hundred thousand files are listed.
    ids_of = {split: read_ids(folder / name) for split, name in names.items()}
    files = find_clips(folder)
    table = word_table(files)
    listed = {
        split: [listed_clip(clip_id, folder, files, table) for clip_id in ids_of[split]] for split in names
    }
    in_a_list = set(ids_of["valid"]) | set(ids_of["eval"])
    rest = (clip_id for clip_id in files if clip_id not in in_a_list)
    listed = {"train": [listed_clip(clip_id, folder, files, table) for clip_id in rest], **listed}
    logger.info("%d words", len(table))
    warn_of_classes_without_clips(table, (clip.labels for clip in listed["train"]))
    prepare_splits(
        manifests_dir, listed, table, settings, num_jobs=num_jobs, task=task, notes={"task": "single-label"}
    )


def find_clips(folder: Path) -> dict[str, str]:
    """The path of each clip by its id, `<word>/<name>`, in alphabetical order: words share names of files."""
    ignored: Counter[str] = Counter()
    files: dict[str, str] = {}
    for parts, path in sorted(audio_below(folder, ignored)):
        if len(parts) != 2:
            ignored["audio files that are not in the folder of a word"] += 1
        elif parts[0].startswith("_"):
            ignored[f"files of {parts[0]}"] += 1
        else:
            files.setdefault(clip_id_of("/".join(parts)), path)
    if ignored:
        found = ", ".join(f"{count} {kind}" for kind, count in ignored.most_common())
        logger.info("%s: ignored %s", folder, found)
    if not files:
        raise DataError(f"{folder} has no folders of audio files, one for each word (corpus.dir)")
    return files


def word_table(files: dict[str, str]) -> LabelTable:
    """The words in alphabetical order; a word is its class' MID as well."""
    words = sorted({word_of(clip_id) for clip_id in files})
    return LabelTable([Label(index, word, word) for index, word in enumerate(words)])


def listed_clip(clip_id: str, folder: Path, files: dict[str, str], table: LabelTable) -> Listed:
    """The clip of an id, which a list may name without its file being there."""
    index = table.index_of_mid.get(word_of(clip_id))
    labels = () if index is None else (index,)
    path = files.get(clip_id)
    if path is None:
        return Listed(clip_id, "", labels, problem=f"missing: no audio file {clip_id} in {folder}")
    if not is_utf8(path):
        return Listed(clip_id, "", labels, problem="bad name: the path is not UTF-8; rename the file")
    return Listed(clip_id, path, labels)


def clip_id_of(place: str) -> str:
    """The id of a file by its path below the corpus' folder."""
    return class_name(split_extension(place)[0])


def word_of(clip_id: str) -> str:
    """The word that a clip is of."""
    return clip_id.partition("/")[0]


def read_ids(path: Path) -> list[str]:
    """The ids that a list names, one in each line as `<word>/<file>`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(
            f"list of clips not found: {path}; corpus.dir must be the folder of Speech Commands, which has "
            "validation_list.txt and testing_list.txt beside the folders of the words"
        ) from None
    except OSError as error:
        raise DataError(f"list of clips cannot be read: {path} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file in UTF-8") from None
    ids = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line:
            continue
        word, _, name = line.partition("/")
        if not word or not name or "/" in name:
            raise DataError(f"{path}, line {number}: expected <word>/<file>, found {shown(line)}")
        ids.append(clip_id_of(line))
    if not ids:
        raise DataError(f"{path} lists no clips")
    return ids
