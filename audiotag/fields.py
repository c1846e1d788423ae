"""Fields of lists that people write: what counts as a number or a name, and how messages quote them."""

from __future__ import annotations

import math
import re

NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
MAX_SHOWN = 80


def number(text: str) -> float:
    """A number in plain digits, else NaN; Python itself would also read `1_0` and digits of other scripts."""
    return float(text) if NUMBER.fullmatch(text.strip()) else math.nan


def has_control_characters(text: str) -> bool:
    """Whether there are NUL, line breaks or the like, which no name has and damage leaves behind."""
    return any(character < " " or character == "\x7f" for character in text)


def shown(text: str) -> str:
    """A text as it is quoted in a message, which a damaged list must not make endless."""
    return repr(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "...")
