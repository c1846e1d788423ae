"""Log lines and progress: a bar for a person at a terminal, plain lines for a log file."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

PLAIN_LINE_EVERY_S = 30.0

# The driver pipes a stage's output into its log, so the bar cannot use stderr there; it names the
# terminal in this variable when a person is watching.
TERMINAL_VARIABLE = "AUDIOTAG_TERMINAL"


def set_up_logging(rank: int = 0, verbose: bool = False) -> None:
    """Log to stderr with time and level; ranks other than 0 only speak of warnings."""
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(
        level=level if rank == 0 else logging.WARNING,
        format="%(asctime)s %(levelname)s " + (f"[rank {rank}] " if rank else "") + "%(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
    for chatty in ("matplotlib", "PIL", "numba", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def progress(
    items: Iterable[Item], total: int | None, what: str, unit: str = "it", enabled: bool = True
) -> Iterator[Item]:
    """Pass the items through while showing how far they are.

    On a terminal this is a bar; elsewhere a log line every half minute.
    """
    if not enabled:
        yield from items
        return
    with open_terminal() as terminal:
        if terminal is not None:
            with tqdm(items, total=total, desc=what, unit=unit, file=terminal, leave=False) as bar:
                yield from bar
            return
    logger = logging.getLogger("audiotag.progress")
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= PLAIN_LINE_EVERY_S:
            last = now
            share = f" of {total}" if total else ""
            logger.info("%s: %d%s %s, %.1f %s/s", what, done, share, unit, done / (now - start), unit)


@contextmanager
def open_terminal() -> Iterator[IO[str] | None]:
    """The terminal that a bar can be drawn on, or None when nobody watches."""
    if sys.stderr.isatty():
        yield sys.stderr
        return
    name = os.environ.get(TERMINAL_VARIABLE)
    try:
        terminal = Path(name).open("w", encoding="utf-8") if name else None  # noqa: SIM115 (see below)
    except OSError:  # the process has no terminal any more
        terminal = None
    with terminal or nullcontext():
        yield terminal
