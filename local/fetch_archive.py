"""Fill an empty folder with what a zip or tar archive on the web holds. Needs Python alone.

fetch_archive.py URL FOLDER LAST [SHA256]

LAST is the file or folder that is moved to its place when all others are there, so that it is a sign of a
whole corpus; SHA256 is the archive's published checksum. A folder that holds everything (ESC-50-master/) is
not kept. What was interrupted while it was fetched or unpacked begins anew; the moves, which copy nothing,
take a moment, and a folder that was left then, without LAST, is to be emptied.
"""

from __future__ import annotations

import gzip
import lzma
import platform
import shutil
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import NoReturn

from fetch_file import CHUNK, FAILURES, fetch, reason_of

PART = ".fetched"
# Where all members are checked, or a reader that stops early says so. zipfile raises a RuntimeError where a
# damaged header asks for a way of packing, or a password, that it does not have.
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    zlib.error,
)


def main() -> None:
    url, folder, last = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    sha256 = sys.argv[4] if len(sys.argv) > 4 else None
    part = folder / PART
    if not url.endswith(".zip") and not confines_members():
        fail(
            f"{url} may be a tar archive, which Python {platform.python_version()} would unpack without "
            "looking where its files go",
            "take 3.10.12, 3.11.4, 3.12 or newer, named in AUDIOTAG_PYTHON, or fetch and unpack it by hand",
        )
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        fetch(url, part / "archive", sha256)
        unpack(part / "archive", part / "content")
        move(part / "content", folder, last)
    except DAMAGED as error:
        reason = reason_of(error)
        fail(
            f"what {url} sent is no whole archive ({reason})", f"fetch it elsewhere and unpack it in {folder}"
        )
    except FAILURES as error:
        fail(f"{url} could not be fetched into {folder} ({reason_of(error)})", "fetch and unpack it by hand")
    finally:
        shutil.rmtree(part, ignore_errors=True)


def fail(what: str, advice: str) -> NoReturn:
    """Leave with one line."""
    print(f"error: {what}: {advice}", file=sys.stderr)
    sys.exit(2)


def confines_members() -> bool:
    """Whether this Python refuses members of a tar archive that would be written outside of its folder."""
    return hasattr(tarfile, "data_filter")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive, whose checksums are compared with what comes out of it."""
    print("unpacking", flush=True)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # noqa: S202 (its members cannot leave the folder)
        return
    with tarfile.open(archive) as file:
        if not confines_members():
            raise ValueError(f"Python {platform.python_version()} would unpack this tar archive unsafely")
        file.extractall(folder, filter="data")
        # The checksum stands at the end, which is behind the last member.
        while file.fileobj.read(CHUNK):
            pass


def move(content: Path, folder: Path, last: str) -> None:
    """Move what was unpacked to its place."""
    entries = list(content.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name != last:
        entries = list(entries[0].iterdir())
    if last not in {entry.name for entry in entries}:
        raise tarfile.TarError(f"it has no {last}")
    for entry in sorted(entries, key=lambda entry: entry.name == last):
        entry.replace(folder / entry.name)


if __name__ == "__main__":
    main()
