"""Checksums, so that a changed digit is noticed and not believed: of files, and in JSON files themselves."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = "checksum"
READ_BYTES = 1 << 22


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """An object for JSON with the checksum of all else in it; what JSON does not know becomes text."""
    return {**content, SEAL: checksum(json.loads(json.dumps(content, default=str)))}


def unsealed(content: dict[str, Any]) -> dict[str, Any]:
    """The object without its checksum; ValueError when it does not fit. Older files have none."""
    if SEAL not in content:
        return content
    rest = {name: value for name, value in content.items() if name != SEAL}
    if content[SEAL] != checksum(rest):
        raise ValueError(
            f'it was changed after it was written: its checksum is another; delete "{SEAL}" in it if the '
            "change is meant"
        )
    return rest


def checksum(content: Mapping[str, Any]) -> str:
    """The CRC-32 of an object as it is read from JSON, whatever the order and form it is written in."""
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def file_checksum(path: Path) -> int:
    """The CRC-32 of a file's bytes, which zlib sums up faster than disks deliver."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum
