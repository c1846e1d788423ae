"""Training that torchrun may start again in place (`--max-restarts`): when that helps, and when it was.

Torchrun restarts whatever leaves with another code than 0: also a run that was asked to stop and has saved,
and one whose configuration is wrong. And it repeats the same command, so that `--restart` would begin anew
each time.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audiotag.errors import AudiotagError, StoppedBySignal, describe, rank_prefix

# At this torchrun ends its processes and itself. Not SIGTERM, which it may have been told to ignore.
LEAVE = signal.SIGHUP
LAUNCH_LINE = "# launch: "


@contextmanager
def restarts_where_they_help() -> Iterator[None]:
    """Have torchrun end in place of starting again what would only fail, or stop, in the same way."""
    try:
        yield
    except Exception as error:
        if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0 and not restart_helps(error):
            if not isinstance(error, StoppedBySignal):
                # For the driver, which torchrun would not tell.
                sys.stderr.write(f"{rank_prefix()}not to be started again: exit code {describe(error)[1]}\n")
                sys.stderr.flush()
            # It will pass this on to its other processes, which are about to leave too.
            signal.signal(LEAVE, signal.SIG_IGN)
            os.kill(os.getppid(), LEAVE)
        raise


def restart_helps(error: Exception) -> bool:
    """Whether the same may succeed next time: not what a person has to mend first."""
    if isinstance(error, AudiotagError):
        return error.restart_helps
    # What has a code of its own is known, such as a full disk or a GPU whose memory is too small.
    return describe(error)[1] == AudiotagError.exit_code


def has_begun(exp_dir: Path) -> bool:
    """Whether a run in a folder was begun by an earlier life of this process: before torchrun started it, or
    Slurm its job, again."""
    try:
        lines = (exp_dir / "config.yaml").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return any(line in lines for line in earlier_launches())


def launch_lines() -> list[str]:
    """What is written at the top of config.yaml of who has begun a run."""
    return [f"{LAUNCH_LINE}{name}" for name in (slurm_job(), torchrun()) if name]


def earlier_launches() -> list[str]:
    """The lines that say that it was an earlier life of this process."""
    # In the first run of a job, a second command in it may well mean to begin anew.
    job = slurm_job() if int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0 else None
    return [f"{LAUNCH_LINE}{name}" for name in (job, torchrun()) if name]


def slurm_job() -> str | None:
    """The job that this process belongs to; it keeps its number when it is queued again."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"Slurm job {job}" if job else None


def torchrun() -> str | None:
    """The torchrun that has started this process."""
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"torchrun {run}, process {os.getppid()} on {socket.gethostname()}" if run else None
