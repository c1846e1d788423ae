"""One run at a time in an experiment folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from audiotag.errors import ConfigError, StorageError

logger = logging.getLogger(__name__)

LOCK_NAME = ".run.lock"
TRAINING = (
    "another run is training in {folder}{holder}: wait for it or stop it, or take another experiment folder "
    "(./run.sh --tag)"
)
JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")

# A process that was killed holds its lock until the system has taken its memory back.
WAIT_FOR_DYING_S = 5.0

# What an interrupted `atomic_write` of training leaves; an evaluation may be writing files of its own.
LEFT_BEHIND = re.compile(r"\.(epoch-\d+\.pt|step-\d+\.pt|config\.yaml|divergence-.*\.pt)\.\d+\.tmp")


@contextmanager
def lock_run(exp_dir: Path, refusal: str = TRAINING) -> Iterator[None]:
    """Hold the folder for this process; a second run in it is refused, with the holder's host and process.

    The system takes the lock back however the process ends, so a file left by a dead one is no obstacle.
    To be called by the first process of a run only. What a killed run left half written is removed.

    Args:
        exp_dir: the folder.
        refusal: what the second run is told of `folder` and its `holder`.
    """
    path = exp_dir / LOCK_NAME
    try:
        exp_dir.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"cannot write into {exp_dir} ({os.strerror(error.errno)}): check its permissions, and that its "
            "file system can be written"
        ) from None
    with file:
        acquire(file, exp_dir, refusal)
        describe_holder(file)
        remove_leftovers(exp_dir)
        yield
        # Closing the file gives the lock back; the file stays, since another run may be waiting for it.


def acquire(file: IO[str], exp_dir: Path, refusal: str) -> None:
    """Take the lock of an open file, or say who has it."""
    deadline = time.monotonic() + WAIT_FOR_DYING_S
    while True:
        try:
            # A record lock belongs to this process alone: loader processes, which inherit the file, do not
            # keep it when this one is killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                logger.warning(
                    "the file system of %s knows no locks (%s): see to it yourself that no second run is "
                    "started there",
                    exp_dir,
                    os.strerror(error.errno),
                )
                return
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
        if time.monotonic() > deadline:
            raise ConfigError(refusal.format(folder=exp_dir, holder=read_holder(file)))
        time.sleep(0.1)


def describe_holder(file: IO[str]) -> None:
    """Write down who has the lock, for those who are refused."""
    job = next((os.environ[name] for name in JOB_VARIABLES if os.environ.get(name)), None)
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": job,
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }
    file.seek(0)
    file.truncate()
    json.dump(holder, file)
    file.flush()


def read_holder(file: IO[str]) -> str:
    """What the holder wrote, as a part of a sentence; empty when that cannot be read."""
    file.seek(0)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        holder = json.load(file)
        job = f", job {holder['job']}" if holder["job"] else ""
        return f" (process {holder['pid']} on {holder['host']}{job}, since {holder['since']})"
    return ""


def remove_leftovers(exp_dir: Path) -> None:
    """Remove temporary files of a run that was killed while it wrote them."""
    for path in exp_dir.iterdir():
        if LEFT_BEHIND.fullmatch(path.name):
            logger.info("removing %s, left by an interrupted run", path)
            path.unlink(missing_ok=True)
