"""Prepare ESC-50 in its own layout: meta/esc50.csv, which says each clip's fold and class, and audio/."""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

from audiotag.configcorpus import Esc50Corpus
from audiotag.corpora.arraytask import ArrayTask
from audiotag.corpora.audioset import check_dir
from audiotag.corpora.entries import split_extension
from audiotag.corpora.preparation import Listed, prepare_splits
from audiotag.errors import DataError
from audiotag.fields import shown
from audiotag.labels import Label, LabelTable

logger = logging.getLogger(__name__)

LIST = "meta/esc50.csv"
COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file")
NUM_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """A clip of the list: file, fold, class by number and name, and the recording that it was cut from."""

    filename: str
    fold: int
    target: int
    category: str
    is_esc10: bool
    source: str


def prepare_esc50(
    manifests_dir: Path, settings: Esc50Corpus, *, num_jobs: int = 1, task: ArrayTask | None = None
) -> None:
    """Run stage 1 for one fold of ESC-50: its clips are eval, the others train.

    Args:
        manifests_dir: where cuts, labels, skipped clips and coverage go.
        settings: the configuration's `corpus` section.
        num_jobs: processes that open audio files.
        task: only open the share of this task of a job array, and remember what is in it.
    """
    folder = check_dir(settings.dir)
    rows = read_rows(folder / LIST)
    if settings.esc10:
        rows = [row for row in rows if row.is_esc10]
    index_of_target, table = classes_of(rows, folder / LIST)
    listed: dict[str, list[Listed]] = {"train": [], "valid": [], "eval": []}
    for row in rows:
        clip = listed_clip(row, folder / "audio", index_of_target[row.target])
        listed[split_of(row.fold, settings)].append(clip)
    if settings.valid == "fold" and not listed["valid"]:
        raise DataError(f"{folder / LIST} has no clips in the fold that corpus.valid: fold validates on")
    logger.info("fold %d of %d is eval; %d classes", settings.fold, NUM_FOLDS, len(table))
    notes = {"task": "single-label", "fold": settings.fold}
    prepare_splits(manifests_dir, listed, table, settings, num_jobs=num_jobs, task=task, notes=notes)


def split_of(fold: int, settings: Esc50Corpus) -> str:
    """The split that a fold belongs to where `settings.fold` is evaluated."""
    if fold == settings.fold:
        return "eval"
    if settings.valid == "fold" and fold == settings.fold % NUM_FOLDS + 1:
        return "valid"
    return "train"


def classes_of(rows: list[Row], path: Path) -> tuple[dict[int, int], LabelTable]:
    """Class index by target, in the order of the targets, and the classes; a name is the MID as well."""
    names: dict[int, str] = {}
    for row in rows:
        if names.setdefault(row.target, row.category) != row.category:
            raise DataError(
                f"{path}: target {row.target} is {names[row.target]} in one row and {row.category} in "
                f"another ({row.filename}); fetch the list anew"
            )
    if not names:
        raise DataError(f"{path} lists no clips")
    targets = sorted(names)
    table = LabelTable([Label(index, names[target], names[target]) for index, target in enumerate(targets)])
    return {target: index for index, target in enumerate(targets)}, table


def listed_clip(row: Row, audio_dir: Path, index: int) -> Listed:
    """The clip of a row, with its file and its class index."""
    clip_id, path = split_extension(row.filename)[0], str(audio_dir / row.filename)
    if not Path(path).is_file():
        return Listed(clip_id, "", (index,), problem=f"missing: {path}", group=row.source)
    return Listed(clip_id, path, (index,), group=row.source)


def read_rows(path: Path) -> list[Row]:
    """The rows of the list, in their order."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                found = shown(",".join(reader.fieldnames or ()))
                raise DataError(
                    f"{path}: no column {missing[0]}; expected {','.join(COLUMNS)}, found {found}"
                )
            return [parse_row(row, f"{path}, line {reader.line_num}") for row in reader]
    except FileNotFoundError:
        raise DataError(
            f"list of clips not found: {path}; corpus.dir must be the folder of ESC-50, with meta/ and audio/"
        ) from None
    except OSError as error:
        raise DataError(f"list of clips cannot be read: {path} ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a list of clips in CSV ({error})") from None


def parse_row(row: dict[str | None, str | None], where: str) -> Row:
    """One row of the list."""
    fields = {column: (row[column] or "").strip() for column in COLUMNS}
    if None in row or "" in fields.values():
        raise DataError(
            f"{where}: expected a value for each column, found {shown(','.join(fields.values()))}"
        )
    fold, target, esc10 = (fields[name] for name in ("fold", "target", "esc10"))
    if not fold.isdecimal() or not 1 <= int(fold) <= NUM_FOLDS:
        raise DataError(f"{where}: fold must be 1 to {NUM_FOLDS}, found {shown(fold)}")
    if not target.isdecimal():
        raise DataError(f"{where}: target must be the number of a class, found {shown(target)}")
    if esc10.lower() not in ("true", "false"):
        raise DataError(f"{where}: esc10 must be True or False, found {shown(esc10)}")
    return Row(
        fields["filename"],
        int(fold),
        int(target),
        fields["category"],
        esc10.lower() == "true",
        fields["src_file"],
    )
