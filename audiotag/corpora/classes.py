"""The classes of a user's own corpus: given by a list or inferred, and what its labels stand for."""

from __future__ import annotations

import difflib
import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from audiotag.corpora.entries import Entry
from audiotag.errors import DataError
from audiotag.fields import has_control_characters, shown
from audiotag.labels import COLUMNS, Label, LabelTable

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 5


def infer_table(entries: Iterable[Entry]) -> LabelTable:
    """All labels in alphabetical order; the name of a class is its MID as well."""
    names = sorted({label for entry in entries for label in entry.labels})
    if not names:
        raise DataError("the corpus has no labels: give at least one clip a label")
    return LabelTable([Label(index, name, name) for index, name in enumerate(names)])


def read_table(path: Path) -> LabelTable:
    """The classes of a label list: AudioSet's CSV layout, or a text file with one class in each line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"label list not found: {path} (corpus.labels)") from None
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path} is not a text file in UTF-8 (corpus.labels)") from None
    if path.suffix.lower() == ".csv" or lines[:1] == [",".join(COLUMNS)]:
        return LabelTable.read(path)
    names = Counter(line.strip() for line in lines if line.strip())
    for name, count in names.items():
        if count > 1:
            raise DataError(f"{path}: the class {shown(name)} is listed more than once")
        if has_control_characters(name):
            raise DataError(f"{path}: the class {shown(name)} has control characters")
    if not names:
        raise DataError(f"{path} lists no classes (corpus.labels)")
    return LabelTable([Label(index, name, name) for index, name in enumerate(names)])


class LabelReader:
    """From labels as people write them, MIDs or display names, to class indices."""

    def __init__(self, table: LabelTable) -> None:
        uses = Counter(table.names)
        self._index_of = {label.name: label.index for label in table if uses[label.name] == 1}
        self._index_of.update(table.index_of_mid)
        self._names_of_several = {name for name, count in uses.items() if count > 1}
        self._known = {known.casefold(): known for known in self._index_of}
        self._complaints: dict[str, str] = {}

    def read(self, labels: Sequence[str]) -> tuple[int, ...]:
        """The indices of the known ones among the labels of a clip."""
        return tuple(dict.fromkeys(self._index_of[label] for label in labels if label in self._index_of))

    def problem(self, labels: Sequence[str], unlabelled: Sequence[str] = ()) -> str | None:
        """Why a clip with these labels, and none for other classes, cannot be used; or None."""
        unknown = [self._complaint(label) for label in (*labels, *unlabelled) if label not in self._index_of]
        if unknown:
            return f"unknown label: {', '.join(unknown)}"
        both = set(self.read(labels)).intersection(self.read(unlabelled))
        if both:
            names = [label for label in labels if self._index_of[label] in both]
            return f"contradiction: {', '.join(names)} in labels and in unlabelled"
        return None

    def _complaint(self, label: str) -> str:
        if label not in self._complaints:  # searched once: a wrong list of labels may concern every clip
            near = difflib.get_close_matches(label.casefold(), self._known, n=1)
            hint = f"nearest: {self._known[near[0]]}" if near else "nothing like it in the label list"
            if label in self._names_of_several:
                hint = "the name of several classes; write the MID"
            self._complaints[label] = f"{label} ({hint})"
        return self._complaints[label]


def warn_of_twins(table: LabelTable) -> None:
    """Name the classes that look like one and the same, misspelt."""
    spellings = defaultdict(list)
    for name in table.names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        spellings["".join(character for character in plain if character.isalnum()) or plain].append(name)
    for names in spellings.values():
        if len(names) > 1:
            logger.warning(
                "these are different classes, although their names differ only by case, blanks or signs: %s",
                " | ".join(names),
            )


def detect_task(entries: Sequence[Entry]) -> str:
    """`single-label` where every clip has exactly one label, else `multi-label`."""
    without = sum(not entry.labels for entry in entries)
    several = sum(len(entry.labels) > 1 for entry in entries)
    if not without and not several:
        logger.info("task: single-label, every clip has exactly one label")
        return "single-label"
    logger.info(
        "task: multi-label; of %d clips, %d have several labels and %d none (negatives of every class)",
        len(entries),
        several,
        without,
    )
    return "multi-label"


def warn_of_classes_without_clips(table: LabelTable, labels_of_train: Iterable[Sequence[int]]) -> None:
    """Name the classes that nothing can be learnt about."""
    present = {index for labels in labels_of_train for index in labels}
    missing = [label.name for label in table if label.index not in present]
    if missing:
        logger.warning(
            "%d of %d classes have no training clip: %s%s",
            len(missing),
            len(table),
            ", ".join(missing[:NUM_EXAMPLES]),
            ", ..." if len(missing) > NUM_EXAMPLES else "",
        )
