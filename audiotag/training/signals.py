"""Being asked to stop: the signals of a scheduler, of `kill` and of Ctrl-C."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Notes that a signal came, so that the run can finish its update and save before it leaves.

        with StopRequest() as stop:
            while not stop.name:
                ...

    A second Ctrl-C stops at once, by KeyboardInterrupt; so does a SIGTERM after Ctrl-C, which is what the
    processes under torchrun get of the second. To be entered by the main thread.

    Attributes:
        name: the first signal that came, such as SIGTERM, or None.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # A process that leaves with an error may have set it to be ignored meanwhile.
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)

    def disarm(self) -> None:
        """Everything is saved: what a launcher sends when others have left first must not end this process
        in another way."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader process, so young that it still has this handler
        name = signal.Signals(number).name
        if self.name is not None and "SIGINT" in (name, self.name) and name != "SIGUSR1":
            raise KeyboardInterrupt
        if self.name is None:
            self.name = name
            announce(name)


def announce(name: str) -> None:
    """Say that the wish was heard, since an update and its checkpoint may take a while."""
    if os.environ.get("RANK", "0") != "0":
        return
    again = "; Ctrl-C again stops at once" if name == "SIGINT" else ""
    # Not by the logger, whose stream may be in the midst of a line when the signal comes.
    os.write(2, f"{name}: finishing this update and saving{again}\n".encode())
