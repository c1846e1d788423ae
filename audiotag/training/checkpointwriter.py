"""Checkpoints are written by a thread of their own, while training goes on with the next updates."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from audiotag.errors import describe
from audiotag.training.checkpoint import save_checkpoint

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes one checkpoint at a time; one that cannot be written does not end the training.

    A full disk costs the checkpoint that was to be written, with a line that says so; those before it stay
    and the next one is tried in its turn. Only a failure of the last one is an error, see `finish`.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failed: tuple[Callable[[], None], BaseException] | None = None

    def submit(self, path: Path, state: dict[str, Any], then: Callable[[], None]) -> None:
        """Take a snapshot of the state and write it in the background.

        Args:
            path: the file.
            state: the checkpoint; its tensors may change as soon as this returns.
            then: what to do once the file is safely on disk.
        """
        self._wait()
        copy = snapshot(state)

        def write() -> None:
            start = time.monotonic()
            save_checkpoint(path, copy)
            then()
            logger.debug("%s took %.1f s to write", path, time.monotonic() - start)

        self._thread = threading.Thread(target=self._run, args=(write, path), name="checkpoint writer")
        self._thread.start()

    def finish(self) -> None:
        """Wait for what is being written; what failed is tried once more, and then it is an error."""
        self._wait()
        if self._failed is not None:
            write, _ = self._failed
            self._failed = None
            write()

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failed is not None and not isinstance(self._failed[1], OSError):
            raise self._failed[1]

    def _run(self, write: Callable[[], None], path: Path) -> None:
        try:
            write()
            self._failed = None
        except BaseException as error:  # it is raised in the training thread, unless the disk is at fault
            self._failed = (write, error)
            if isinstance(error, OSError):
                logger.error(
                    "%s was not written: %s; training goes on, the earlier checkpoints are as they were, and "
                    "the next one is tried in its turn",
                    path,
                    describe(error)[0],
                )


def snapshot(value: Any) -> Any:
    """A copy of nested dicts and lists with all tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(item) for item in value)
    return value
