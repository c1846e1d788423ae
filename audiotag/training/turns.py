"""Whose turn it is to make a store that several runs need: one makes it, and the others wait for that.

Only the first process of a run looks whether it is there yet and who has its folder, for a moment at a time,
and the others hear of every look. So no process waits longer than a look in a collective operation, which
would fail after `training.timeout_s`, and all leave together when one is asked to stop.
"""

from __future__ import annotations

import logging
import tempfile
import time
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from audiotag.data.rowstore import RowStore
from audiotag.distributed import World
from audiotag.errors import StoppedBySignal
from audiotag.training.runlock import Occupied, lock_run, running_in
from audiotag.training.signals import StopRequest

logger = logging.getLogger(__name__)

# Seconds between two looks, in which a run names itself, and between two lines of the log about them.
LOOK_S = 1.0
NAMING_S = 0.2
REPORT_S = 60.0

COMPLETE, OURS, TAKEN = "complete", "ours", "taken"


def take_turn(
    store: RowStore, inputs: NDArray[np.float32] | None, held: ExitStack, world: World, stop: StopRequest
) -> bool:
    """Hold a store's folder in order to make its rows; while another run has it, wait.

    Args:
        store: what is to be made.
        inputs: what `sample_inputs` found in the clips; only the first process needs it.
        held: what gives the folder back in the end.
        world: the processes.
        stop: tells whether a signal asked to stop.

    Returns:
        Whether rows are to be made; otherwise they are there.
    """
    watch = Watch(store, inputs, held, stop) if world.is_main else None
    while True:
        looks = world.gather((watch.look() if watch else None, stop.name))
        if looks[0][0] != TAKEN:
            return looks[0][0] == OURS
        if names := [name for _, name in looks if name]:
            world.leave(
                StoppedBySignal(
                    f"stopped by {names[0]} while it waited for another run to make {store.kind.what} in "
                    f"{store.folder}; the same command goes on from there"
                )
            )
        if watch:
            time.sleep(LOOK_S)


class Watch:
    """The first process' view of a store that another run may be making.

    Args:
        store, inputs, held, stop: see `take_turn`.
    """

    def __init__(
        self, store: RowStore, inputs: NDArray[np.float32], held: ExitStack, stop: StopRequest
    ) -> None:
        self.store = store
        self.inputs = inputs
        self.held = held
        self.stop = stop
        self._seen: tuple[int, int] | None = None
        self._told: str | None = None
        self._told_at = time.monotonic()

    def look(self) -> str:
        """`complete`, `ours` where this process holds the folder from now on, or `taken`."""
        if self.is_complete():
            return COMPLETE
        holder = self.holder()
        if holder == "":  # it has just taken the folder, and writes its name in a moment
            time.sleep(NAMING_S)
            holder = self.holder()
        if holder is not None:
            self.tell(holder)
            return TAKEN
        try:
            self.held.enter_context(lock_run(self.store.folder))
        except Occupied:
            return TAKEN
        # Over a network a file system may show this machine the folder as it was before the other run ended;
        # once a file is made in it, it is looked at again.
        tempfile.TemporaryFile(dir=self.store.folder).close()
        if self.is_complete():
            return COMPLETE
        if self._told is not None:
            logger.info("that run has ended before all were made: this one goes on behind it")
        return OURS

    def holder(self) -> str | None:
        """Who makes the store, see `running_in`."""
        # A beat is listened for again and again, so this is not worth a line each time.
        return running_in(self.store.folder, level=logging.DEBUG, in_haste=lambda: self.stop.name is not None)

    def is_complete(self) -> bool:
        """Whether all rows are there. They are read only where they were finished since the last look."""
        try:
            found = self.store.description_path.stat()
        except FileNotFoundError:
            return False
        # Who unlinks a file and writes it anew may get the same number for it.
        if (found.st_ino, found.st_mtime_ns) == self._seen:
            return False
        self._seen = (found.st_ino, found.st_mtime_ns)
        return self.store.is_complete(self.inputs)

    def tell(self, holder: str) -> None:
        """Say who is waited for, and from time to time how far that run is."""
        is_news = self._told is None or (holder and holder != self._told)
        if not is_news and time.monotonic() - self._told_at < REPORT_S:
            return
        self._told, self._told_at = holder or self._told or "", time.monotonic()
        logger.info(
            "waiting for another run%s, which is making %s in %s: %d of %d clips are done",
            holder,
            self.store.kind.what,
            self.store.folder,
            self.store.num_finished(),
            self.store.num_clips,
        )
