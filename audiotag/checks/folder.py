"""The folders that a run writes into: whether it may, and whether another run is at it."""

from __future__ import annotations

from pathlib import Path

from audiotag.checks.finding import Finding, fail, failed, ok
from audiotag.errors import ConfigError, StorageError
from audiotag.training.runlock import running_in
from audiotag.writable import check_writable


def check_folders(data_dir: Path, exp_dir: Path) -> list[Finding]:
    """Both folders, and the lock of the experiment's."""
    return [
        check_place("data folder", data_dir),
        check_place("run's folder", exp_dir),
        check_lock(exp_dir),
    ]


def check_place(subject: str, folder: Path) -> Finding:
    """Whether a folder can be written into, or made."""
    try:
        check_writable(folder)
    except StorageError as error:
        return failed(subject, error)
    return ok(subject, f"{folder} can be written" + ("" if folder.exists() else ", and will be made"))


def check_lock(exp_dir: Path) -> Finding:
    """Whether a run is training in the folder."""
    try:
        holder = running_in(exp_dir)
    except OSError as error:
        return failed("lock", error)
    if holder is not None:
        text = f"another run is training in {exp_dir}{holder}"
        return fail("lock", text, "wait for it or stop it, or take another --tag", ConfigError)
    return ok("lock", "no other run is in the folder")
