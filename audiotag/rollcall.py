"""How the processes of a run learn that one of them failed, and why.

A process that waits for a dead one in a collective operation only learns that a connection was closed, or,
after a long time, that nothing came. So each shows now and then that it lives, in the store through which the
processes found each other, and one that fails writes its reason there.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass

import torch.distributed as dist

from audiotag.errors import AudiotagError, TrainingError, describe, rank_prefix
from audiotag.restarts import restart_helps

logger = logging.getLogger(__name__)

BEAT_S = 1.0
# A process this long without a sign of life is gone, once an operation with it has failed.
SILENCE_S = 3.0
# A process that is still there so long after another has failed is stuck in an operation with it.
LEAVE_S = 15.0
LEFT = "left"


@dataclass(frozen=True)
class Failure:
    """What a process left in the store before it ended, or what another found out about it."""

    rank: int
    reason: str
    exit_code: int
    restart_helps: bool = True

    def error(self) -> AudiotagError:
        """What the other processes leave with."""
        error = TrainingError(f"rank {self.rank} {self.reason}")
        # The same code, whoever is out first: a launcher takes the first one for the cause.
        error.exit_code = self.exit_code
        error.restart_helps = self.restart_helps
        return error


class RollCall:
    """Signs of life and last words of the processes of a run.

    Args:
        store: where they are kept; the connection is used by nothing else.
        rank: this process.
        size: how many there are.
        timeout_s: silence of another process after which this one leaves, whatever it is doing.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, timeout_s: float) -> None:
        self._store = store
        self._rank = rank
        self._size = size
        self._timeout_s = timeout_s
        # With many processes less often: each reads what all the others write.
        self._every_s = BEAT_S * max(1.0, size / 32)
        self._heard: dict[int, tuple[str, float]] = {}
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="roll call", daemon=True)
        self._beat(0)

    def start(self) -> None:
        """Begin to listen; every process must have been made a `RollCall` by now."""
        self._thread.start()

    def leave(self) -> None:
        """End without a failure; the others do not miss this process from here on."""
        self._left.set()
        self._thread.join(timeout=SILENCE_S)
        try:
            self._store.set(self._key(self._rank), LEFT)
        except RuntimeError:
            logger.debug("the launcher has ended first", exc_info=True)

    def explain(self, error: BaseException) -> AudiotagError | None:
        """What another process did that made this error; None for one of this process' own, which the
        others are told of."""
        try:
            if not is_lost_connection(error):
                helps = not isinstance(error, Exception) or restart_helps(error)
                self._report(Failure(self._rank, f"failed: {last_words(error)}", exit_code(error), helps))
                return None
            return self._find_cause().error()
        except RuntimeError:
            logger.debug("the store of the run is gone", exc_info=True)
            if not is_lost_connection(error):
                return None
            lost = TrainingError(
                f"rank 0, through which the processes hear of each other, cannot be reached any more "
                f"({describe_connection(error)}): it was killed, or its machine is down, or it has printed "
                "why it failed"
            )
            lost.restart_helps = True
            return lost

    def _find_cause(self) -> Failure:
        """Wait until it is clear who is gone; tell the others, so that all say the same."""
        silence_s = SILENCE_S * self._every_s / BEAT_S
        deadline = time.monotonic() + silence_s + 2 * self._every_s
        while not (gone := self._silent_for(silence_s)) and time.monotonic() < deadline:
            if failure := self._read_failure():
                return failure
            time.sleep(0.1)
        if gone:
            reason = (
                "does not answer any more: it was killed, perhaps by the system for want of memory, or it "
                "hangs, or its machine is down"
            )
            failure = Failure(gone[0], reason, TrainingError.exit_code)
        else:
            reason = (
                f"waited in vain for the others, which are all alive: one of them took longer than "
                f"training.timeout_s, {self._timeout_s:g} s, to do its part"
            )
            failure = Failure(self._rank, reason, TrainingError.exit_code)
        self._report(failure)
        return self._read_failure() or failure

    def _report(self, failure: Failure) -> None:
        """Leave a failure for the others to find, unless there is one already: the first is the cause."""
        self._store.compare_set("failure", "", json.dumps(asdict(failure)))

    def _read_failure(self) -> Failure | None:
        if not self._store.check(["failure"]):
            return None
        return Failure(**json.loads(self._store.get("failure")))

    def _keep(self) -> None:
        """What the thread does: show that this process lives, and see whether the others do."""
        count, known_since = 0, None
        while not self._left.wait(self._every_s):
            count += 1
            try:
                self._beat(count)
                self._listen()
                failure = self._read_failure()
            except RuntimeError:
                logger.debug("the store of the run is gone", exc_info=True)
                return
            if failure is None and (gone := self._silent_for(self._timeout_s)):
                reason = f"has given no sign of life for {self._timeout_s:g} s"
                failure = Failure(gone[0], reason, TrainingError.exit_code)
            if failure is not None:
                known_since = known_since or time.monotonic()
                if time.monotonic() - known_since > LEAVE_S:
                    self._abandon(failure)

    def _abandon(self, failure: Failure) -> None:
        """End the process while its main thread waits for something that never comes, as it may in NCCL."""
        sys.stderr.write(f"error: {rank_prefix()}{failure.error()}\n")
        sys.stderr.flush()
        os._exit(failure.exit_code)

    def _beat(self, count: int) -> None:
        self._store.set(self._key(self._rank), str(count))

    def _listen(self) -> None:
        """Note when the sign of each process last changed."""
        now = time.monotonic()
        signs = self._store.multi_get([self._key(rank) for rank in range(self._size)])
        for rank, sign in enumerate(signs):
            if rank not in self._heard or self._heard[rank][0] != sign.decode():
                self._heard[rank] = (sign.decode(), now)

    def _silent_for(self, seconds: float) -> list[int]:
        """The other processes that were not heard of for so long, and did not say that they leave."""
        now = time.monotonic()
        return [
            rank
            for rank, (sign, since) in sorted(self._heard.items())
            if rank != self._rank and sign != LEFT and now - since > seconds
        ]

    @staticmethod
    def _key(rank: int) -> str:
        return f"beat/{rank}"


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says no more than that another process did not do its part."""
    if isinstance(error, dist.DistBackendError):  # NCCL, which has failures of its own too
        return "ncclRemoteError" in str(error) or "timeout" in str(error).lower()
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error))


def describe_connection(error: BaseException) -> str:
    """The part of an error of gloo or NCCL that a person can use."""
    return str(error).partition("\n")[0].rpartition("] ")[2]


def last_words(error: BaseException) -> str:
    """The reason that the others are told."""
    if isinstance(error, Exception):
        return describe(error)[0]
    return "interrupted" if isinstance(error, KeyboardInterrupt) else f"it left ({error!r})"


def exit_code(error: BaseException) -> int:
    """The code that a process leaves with after an error."""
    if isinstance(error, Exception):
        return describe(error)[1]
    return 130 if isinstance(error, KeyboardInterrupt) else 1
