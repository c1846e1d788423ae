"""Read a damaged text or data file: its content, or the error that a user gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from audiotag.errors import AudiotagError


class Refusal(str):
    """The message with which a file was refused."""


def read(function: Callable[[], Any], path: Path) -> Any:
    """What a function returns, or its message, which must be one line that names the file."""
    try:
        return function()
    except AudiotagError as error:
        message = str(error)
        assert str(path) in message, f"the message does not name the file: {message[:300]}"
        assert len(message) < 2000, f"the message has {len(message)} characters: {message[:300]}"
        return Refusal(message)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {str(error)[:300]}") from error
