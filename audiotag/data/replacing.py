"""What happens in training when a clip cannot be read: others are tried in its place, and it is counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import numpy as np

from audiotag.data.loading import Unreadable
from audiotag.errors import DataError

logger = logging.getLogger(__name__)

# Clips that are tried in the place of one. So many unreadable ones in a row are no accident: rather, a disk
# is gone.
MAX_TRIES = 20
NAMED = 3

# Ids of clips that could not be read and why, for the main process.
Replaced = list[tuple[str, str]]


def first_readable(
    positions: Iterable[int], load: Callable[[int], np.ndarray], replaced: Replaced
) -> tuple[int, np.ndarray]:
    """The first of some clips that can be read, and its position.

    Args:
        positions: the clip that is wanted, then those to try in its place.
        load: reads the clip at a position.
        replaced: gets the id and the reason of each that cannot be read.
    """
    failures = []
    for position in positions:
        try:
            return position, load(position)
        except Unreadable as error:
            failures.append(error)
            replaced.append((error.clip_id, error.reason))
    first = failures[0]
    raise DataError(
        f"clip {first.clip_id}: {first.reason}; and none of {len(failures) - 1} clips drawn in its place can "
        "be read either: see whether the disk that holds them is there, or run the stages from 1 on again "
        "with --force"
    )


class ReplacementLog:
    """Names every unreadable clip once in a run, and stops the run when an epoch has too many.

    Args:
        max_share: largest share of an epoch's clips that may be replaced; above 0, one always may.
    """

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self._named: set[str] = set()

    def begin(self, epoch: int, num_clips: int) -> None:
        """Start counting an epoch of so many clips on this process."""
        self._epoch, self._num_clips, self._count = epoch, num_clips, 0
        self._limit = max(self.max_share * num_clips, 1 if self.max_share > 0 else 0)
        self._reasons: dict[str, str] = {}

    def note(self, replaced: Replaced, count: int) -> None:
        """Take in what could not be read for one batch, and how many of its own clips were replaced.

        The two differ: noise, partners and clips tried in another's place can be unreadable too.
        """
        self._reasons.update(replaced)
        self._count += count
        for clip_id, reason in replaced:
            if clip_id not in self._named:
                self._named.add(clip_id)
                logger.warning("clip %s: %s; another clip takes its place", clip_id, reason)
        if self._count > self._limit:
            shown = "; ".join(
                f"{clip_id}: {reason}" for clip_id, reason in list(self._reasons.items())[:NAMED]
            )
            raise DataError(
                f"epoch {self._epoch}: {self._count} unreadable clips had to be replaced so far, "
                f"with {self._num_clips} to load on this process: more than data.max_unreadable "
                f"({self.max_share:g}) allows ({shown}); restore the files, run the stages from 1 on again "
                "with --force, or raise data.max_unreadable"
            )

    def finish(self) -> None:
        """Sum up the epoch."""
        if self._count:
            logger.warning(
                "epoch %d: %d unreadable clips were replaced, with %d to load on this process",
                self._epoch,
                self._count,
                self._num_clips,
            )
