"""Files that a stage leaves for later ones: its JSON, and the errors for missing and damaged files."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from audiotag.errors import DataError
from audiotag.seal import unsealed

MAX_REASON = 200


def missing(path: Path, stage: int) -> DataError:
    """The error for a file that is not there."""
    return DataError(f"{path} is missing; stage {stage} makes it (./run.sh --stage {stage})")


def damaged(path: Path, reason: Exception | str, stage: int) -> DataError:
    """The error for a file that cannot be used; the reason is cut short, as it may quote the whole file."""
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    text = textwrap.shorten(text, MAX_REASON, placeholder="...")
    return DataError(f"{path} is damaged ({text}); run stage {stage} again with --force")


def read_objects(path: Path, stage: int) -> dict[str, dict[str, Any]]:
    """The objects of a JSON file by their names."""
    try:
        content = parse_object(path.read_bytes())
    except FileNotFoundError:
        raise missing(path, stage) from None
    except (OSError, ValueError) as error:
        raise damaged(path, error, stage) from None
    for name, entry in content.items():
        if not isinstance(entry, dict):
            raise damaged(path, f"expected an object for {name}, found {type(entry).__name__}", stage)
    return content


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object without its checksum; ValueError for whatever else there may be."""
    try:
        content = json.loads(text.decode())
    except (RecursionError, UnicodeDecodeError) as error:  # of which the latter would quote the whole text
        raise ValueError(str(error)) from None
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, found {type(content).__name__}")
    return unsealed(content)
