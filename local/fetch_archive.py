"""Fill an empty folder with what a zip or tar archive on the web holds. Needs Python alone.

fetch_archive.py URL FOLDER LAST

LAST is the file or folder that is moved to its place when all others are there, so that it is a sign of a
whole corpus. A folder that holds everything (ESC-50-master/) is not kept. What was interrupted begins anew.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
import urllib.request
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import NoReturn

PART = ".fetched"
CHUNK = 2**20
# Where all members are checked, or a reader that stops early says so.
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error)


def main() -> None:
    url, folder, last = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    part = folder / PART
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        fetch(url, part / "archive")
        unpack(part / "archive", part / "content")
        move(part / "content", folder, last)
    except DAMAGED as error:
        fail(f"what {url} sent is no whole archive", error, f"fetch it elsewhere and unpack it in {folder}")
    except (OSError, HTTPException, ValueError) as error:
        fail(f"{url} could not be fetched into {folder}", error, "fetch and unpack it by hand")
    finally:
        shutil.rmtree(part, ignore_errors=True)


def fail(what: str, error: Exception, advice: str) -> NoReturn:
    """Leave with one line; a library's reasons may have several."""
    reason = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
    print(f"error: {what} ({reason}): {advice}", file=sys.stderr)
    sys.exit(2)


def fetch(url: str, path: Path) -> None:
    """Download a file; a size that the server has told must be right."""
    print(f"fetching {url}", flush=True)
    # The address is the recipe's, or its user's.
    with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as file:  # noqa: S310
        expected = int(answer.headers.get("Content-Length") or 0)
        shown = 0
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            if file.tell() >= shown + 100 * CHUNK:
                shown = file.tell()
                print(
                    f"  {shown / CHUNK:.0f} MB" + (f" of {expected / CHUNK:.0f}" if expected else ""),
                    flush=True,
                )
        if expected and file.tell() != expected:
            raise OSError(f"only {file.tell()} of {expected} bytes arrived")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive, whose checksums are compared with what comes out of it."""
    print("unpacking", flush=True)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # noqa: S202 (its members cannot leave the folder)
        return
    # Members that would be written outside of the folder are refused where Python knows how.
    options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as file:
        file.extractall(folder, **options)  # noqa: S202


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
