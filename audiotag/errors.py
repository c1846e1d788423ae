"""The errors that a user can cause and mend, and how a command reports them.

A message says what is wrong, where (file, id or key), what was expected and found, and what to do.
Commands print it as one line and leave with the error's own exit code; `--verbose` adds the traceback.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType


class AudiotagError(Exception):
    """Base of all errors whose message is meant for the user."""

    exit_code = 1
    restart_helps = False
    """Whether the same command may succeed when it is started again, with nothing changed."""


class ConfigError(AudiotagError):
    """A YAML file, a `--set` or an option that cannot be used."""

    exit_code = 2


class DataError(AudiotagError):
    """A corpus, manifest, feature or score file that is missing, damaged or does not fit."""

    exit_code = 3


class CheckpointError(AudiotagError):
    """A checkpoint or exported model that is missing, damaged or of another model."""

    exit_code = 4


class TrainingError(AudiotagError):
    """A run that cannot go on, such as a loss that is not finite."""

    exit_code = 5


class StorageError(AudiotagError):
    """A disk that is full or a folder that cannot be written."""

    exit_code = 6


class StoppedBySignal(AudiotagError):
    """Not a failure: a run that was asked to stop, has saved its state, and goes on when started again."""

    exit_code = 75  # EX_TEMPFAIL of <sysexits.h>: try again
    _said = False

    def say(self) -> None:
        """Print it once: all processes of a run stop together, and the first of them says so."""
        if not self._said and not rank_prefix():
            # A bar of progress may still stand there.
            start = "\r\033[K" if sys.stderr.isatty() else ""
            sys.stderr.write(f"{start}{one_line(str(self))}\n")
            sys.stderr.flush()
        self._said = True


EXIT_INTERRUPTED = 130


def run_command(main: Callable[[], None], verbose: bool | None = None) -> None:
    """Run a command's main function; turn errors into one line on stderr and an exit code.

    `verbose` defaults to whether `--verbose` is among the arguments, so that errors raised while the
    arguments are still being parsed obey it too.
    """
    if verbose is None:
        verbose = "--verbose" in sys.argv[1:]
    try:
        if signal.getsignal(signal.SIGINT) is leave:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
    except KeyboardInterrupt:
        say_interrupted()
        sys.exit(EXIT_INTERRUPTED)
    except StoppedBySignal as stop:
        stop.say()
        sys.exit(stop.exit_code)
    except Exception as error:
        if verbose:
            traceback.print_exc()
        message, exit_code = describe(error)
        if exit_code == 1 and not verbose and not isinstance(error, AudiotagError):
            message += " (run again with --verbose for the traceback)"
        # One write a line, so that the lines of several processes do not run into each other.
        sys.stderr.write(f"error: {rank_prefix()}{message}\n")
        sys.exit(exit_code)


def leave_at_interrupt() -> None:
    """Have Ctrl-C end this process at once and in one line until `run_command` begins: imports, which take
    seconds, would show their lines, or swallow the KeyboardInterrupt."""
    # Where it is ignored, as in a background job, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def leave(number: int, frame: FrameType | None) -> None:
    """A handler of signals for a process that has not begun its work."""
    say_interrupted()
    os._exit(EXIT_INTERRUPTED)


def say_interrupted() -> None:
    """One of several processes says it for all."""
    if not rank_prefix():
        os.write(2, b"interrupted\n")


def describe(error: Exception) -> tuple[str, int]:
    """The one line and the exit code for an error, also for those of the operating system."""
    if isinstance(error, AudiotagError):
        return one_line(str(error)), error.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = f" while writing {error.filename}" if error.filename else ""
        why = "the disk is full" if error.errno == errno.ENOSPC else os.strerror(error.errno)
        message = f"{why}{where}: free some space and run the same command again"
        return message, StorageError.exit_code
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"no permission for {error.filename}: {os.strerror(error.errno)}", StorageError.exit_code
    if type(error).__name__ == "OutOfMemoryError":
        message = (
            "the GPU's memory is too small: in training lower data.batch_size (or data.max_duration_s) and "
            "raise training.accumulate by the same factor, or take training.amp bf16 or "
            "training.activation_checkpointing true; in evaluation lower evaluation.batch_size"
        )
        return message, TrainingError.exit_code
    return one_line(f"{type(error).__name__}: {error}"), 1


def rank_prefix() -> str:
    """Which process speaks, for all but the first of a run with several."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f"[rank {rank}] "


def one_line(text: str) -> str:
    """The text without line breaks, since one error is one line."""
    return " ".join(text.split())
