"""One run at a time in an experiment folder, on whatever machine.

The system's lock on a file tells: it ends with its process, so that a dead run holds nobody up. Where a file
system knows no locks, or each machine sees its own alone (NFS mounted with `nolock` or `local_lock`), a beat
tells: the holder touches the file again and again, and one that is still touched is held.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from audiotag.errors import ConfigError, StorageError

logger = logging.getLogger(__name__)

LOCK_NAME = ".run.lock"
JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")

# Seconds between two touches of the file, and without one after which its holder counts as gone.
BEAT_S = 5.0
SILENCE_S = 4 * BEAT_S

# A process that was killed holds its lock until the system has taken its memory back.
WAIT_FOR_DYING_S = 5.0

# What an interrupted `atomic_write` of training leaves; an evaluation may be writing files of its own.
LEFT_BEHIND = re.compile(r"\.(epoch-\d+\.pt|step-\d+\.pt|config\.yaml|divergence-.*\.pt)\.[0-9a-f]+\.tmp")


class Occupied(ConfigError):
    """Another run holds the folder."""


@contextmanager
def lock_run(exp_dir: Path) -> Iterator[None]:
    """Hold the folder for this process; a second run in it is refused, with the holder's host and process.

    The system takes the lock back however the process ends, so a file left by a dead one is no obstacle.
    To be called by the first process of a run only. What a killed run left half written is removed.
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
    left = threading.Event()
    with file:
        acquire(file, exp_dir)
        if holder := beating_holder(path, read_holder(file)):
            raise occupied(exp_dir, holder)
        describe_holder(file)
        remove_leftovers(exp_dir)
        threading.Thread(target=beat, args=(path, left), name="lock", daemon=True).start()
        try:
            yield
        finally:
            left.set()
            # Who ends in peace leaves nobody's name. The file stays, since another run may be waiting for it;
            # closing it gives the lock back.
            file.truncate(0)


def acquire(file: IO[str], exp_dir: Path) -> None:
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
                    "the file system of %s knows no locks (%s): a second run that is started there within "
                    "%g s of this one is not noticed",
                    exp_dir,
                    os.strerror(error.errno),
                    BEAT_S,
                )
                return
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
        if time.monotonic() > deadline:
            raise occupied(exp_dir, read_holder(file))
        time.sleep(0.1)


def occupied(exp_dir: Path, holder: dict[str, Any] | None) -> Occupied:
    """The error for a second run in a folder."""
    return Occupied(
        f"another run is training in {exp_dir}{in_words(holder)}: wait for it or stop it, or take another "
        "experiment folder (./run.sh --tag)"
    )


def beating_holder(
    path: Path,
    holder: dict[str, Any] | None,
    *,
    level: int = logging.INFO,
    in_haste: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """The holder whom a lock file names, if it lives although the file could be locked, because locks do not
    reach from its machine to this one.

    Times are those of the file system, since clocks of machines differ. The file is not opened: closing it
    would end this process' own lock on it.

    Args:
        path: the lock file.
        holder: whom it names.
        level: of the message that this may take a while.
        in_haste: whether to listen no longer; the holder then counts as alive.
    """
    if holder is None or (holder["host"] == socket.gethostname() and not is_alive(holder["pid"])):
        return None
    touched = path.stat().st_mtime_ns
    with tempfile.TemporaryFile(dir=path.parent) as now:
        now.write(b"-")
        now.flush()
        silent_s = (os.fstat(now.fileno()).st_mtime_ns - touched) / 1e9
    if silent_s > SILENCE_S:
        return None
    logger.log(level, "waiting up to %g s to see whether%s still lives", SILENCE_S, in_words(holder))
    deadline = time.monotonic() + SILENCE_S
    while time.monotonic() < deadline:
        time.sleep(min(0.5, BEAT_S / 10))
        if path.stat().st_mtime_ns != touched or in_haste():
            return holder
    return None


def is_alive(pid: int) -> bool:
    """Whether this machine has another process of this number that has not ended."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
        # One that was killed stays in the list until its parent has asked for it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's, or a system without /proc
        return True


def beat(path: Path, left: threading.Event) -> None:
    """Touch the file until the run is over."""
    while not left.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)


def running_in(exp_dir: Path, **listening: Any) -> str | None:
    """Who holds a folder, as a part of a sentence, empty for one who is not named yet; None when nobody does.
    Nothing is changed.

    Args:
        exp_dir: the folder.
        listening: how a beat is listened for, see `beating_holder`.
    """
    path = exp_dir / LOCK_NAME
    try:
        file = path.open("r+", encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return in_words(read_holder(file))
        holder = read_holder(file)
    # Closing has given the lock back: a run that starts while a beat is listened for must get it.
    holder = beating_holder(path, holder, **listening)
    return in_words(holder) if holder else None


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


def read_holder(file: IO[str]) -> dict[str, Any] | None:
    """What the holder wrote; None when that cannot be read."""
    file.seek(0)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        holder = json.load(file)
        return {
            "host": holder["host"],
            "pid": int(holder["pid"]),
            "job": holder["job"],
            "since": holder["since"],
        }
    return None


def in_words(holder: dict[str, Any] | None) -> str:
    """A holder as a part of a sentence."""
    if holder is None:
        return ""
    job = f", job {holder['job']}" if holder["job"] else ""
    return f" (process {holder['pid']} on {holder['host']}{job}, since {holder['since']})"


def remove_leftovers(exp_dir: Path) -> None:
    """Remove temporary files of a run that was killed while it wrote them."""
    for path in exp_dir.iterdir():
        if LEFT_BEHIND.fullmatch(path.name):
            logger.info("removing %s, left by an interrupted run", path)
            path.unlink(missing_ok=True)
