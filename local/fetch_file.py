"""Download a file, and compare its size and checksum with what the server tells of them. Needs Python alone.

fetch_file.py URL FILE
"""

from __future__ import annotations

import base64
import hashlib
import sys
import urllib.request
from email.message import Message
from http.client import HTTPException
from pathlib import Path

CHUNK = 2**20
# What a download fails with: no network, no room, an answer that ends early, an address that is none.
FAILURES = (OSError, HTTPException, ValueError)


def main() -> None:
    url, path = sys.argv[1], Path(sys.argv[2])
    try:
        fetch(url, path)
    except FAILURES as error:
        sys.exit(reason_of(error))


def fetch(url: str, path: Path, sha256: str | None = None) -> None:
    """Download a file; a size and a checksum that the server has told must be right, and a published one."""
    print(f"fetching {url}", flush=True)
    digest, published = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    # The address is the recipe's, or its user's.
    with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as file:  # noqa: S310
        expected = int(answer.headers.get("Content-Length") or 0)
        shown = 0
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            published.update(chunk)
            if file.tell() >= shown + 100 * CHUNK:
                shown = file.tell()
                print(
                    f"  {shown / CHUNK:.0f} MB" + (f" of {expected / CHUNK:.0f}" if expected else ""),
                    flush=True,
                )
        if expected and file.tell() != expected:
            raise OSError(f"only {file.tell()} of {expected} bytes arrived")
        told = told_md5(answer.headers)
    if told is not None and told != digest.digest():
        raise OSError("other bytes arrived than were sent: the MD5 differs")
    if sha256 is not None and published.hexdigest() != sha256:
        raise OSError(f"it is another file than the published one: its SHA-256 is {published.hexdigest()}")


def told_md5(headers: Message) -> bytes | None:
    """The MD5 that Google's storage tells of a file: `x-goog-hash: md5=...`, perhaps beside another sum."""
    # Of one that lies there packed and is unpacked on its way it is the packed one's.
    if headers.get("x-goog-stored-content-encoding", "identity") != "identity":
        return None
    for word in ",".join(headers.get_all("x-goog-hash", [])).split(","):
        name, _, value = word.strip().partition("=")
        if name == "md5":
            return base64.b64decode(value)
    return None


def reason_of(error: Exception) -> str:
    """One line; a library's reasons may have several, or none."""
    return str(error).partition("\n")[0].rstrip(":") or type(error).__name__


if __name__ == "__main__":
    main()
