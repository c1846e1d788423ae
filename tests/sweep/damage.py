"""Ways to damage the bytes of a file. Each is a function from good bytes to bad ones."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import strategies as st

Damage = Callable[[bytes], bytes]


def cut_to(num_bytes: int) -> Damage:
    """Keep the first bytes; a negative number leaves out as many at the end."""
    return lambda content: content[:num_bytes]


def cut_to_share(share: float) -> Damage:
    """Keep this share of the bytes."""
    return lambda content: content[: int(share * len(content))]


def overwritten(start: float, num_bytes: int, value: int = 0) -> Damage:
    """Put equal bytes over a block that begins at this share of the file, or that ends with it (1.0)."""

    def damage(content: bytes) -> bytes:
        first = min(int(start * len(content)), max(0, len(content) - num_bytes))
        block = bytes([value]) * min(num_bytes, len(content))
        return content[:first] + block + content[first + len(block) :]

    return damage


def with_flips(seed: int, first: float, last: float, count: int = 1) -> Damage:
    """Flip some bits at random between two shares of the file, or between two byte offsets above 1."""

    def damage(content: bytes) -> bytes:
        rng = random.Random(seed)
        changed = bytearray(content)
        for _ in range(count):
            place = rng.randrange(place_of(first, content), place_of(last, content))
            changed[place] ^= 1 << rng.randrange(8)
        return bytes(changed)

    return damage


def place_of(share: float, content: bytes) -> int:
    """The offset that a share of the file or an offset above 1 stands for."""
    return min(int(share) if share > 1 else int(share * len(content)), len(content))


def with_bit(place: int, bit: int) -> Damage:
    """Flip one bit."""
    return lambda content: content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def with_field(place: int, value: bytes) -> Damage:
    """Put other bytes at an offset."""
    return lambda content: content[:place] + value + content[place + len(value) :]


def prepended(garbage: bytes) -> Damage:
    """Put something in front."""
    return lambda content: garbage + content


def appended(garbage: bytes) -> Damage:
    """Put something behind."""
    return lambda content: content + garbage


def without(first: float, num_bytes: int) -> Damage:
    """Leave out a block, as a broken transfer does."""

    def damage(content: bytes) -> bytes:
        start = int(first * len(content))
        return content[:start] + content[start + num_bytes :]

    return damage


def noise(num_bytes: int, seed: int = 0) -> bytes:
    """Random bytes."""
    return random.Random(seed).randbytes(num_bytes)


# A byte that is set, inserted or dropped, at a place.
Change = tuple[int, int, str]


def any_changes(num_bytes: int, most: int = 6) -> st.SearchStrategy[list[Change]]:
    """Some changes at random to a file of this length."""
    change = st.tuples(
        st.integers(0, num_bytes - 1), st.integers(0, 255), st.sampled_from(["set", "insert", "drop"])
    )
    return st.lists(change, min_size=1, max_size=most)


def changed(content: bytes, changes: list[Change]) -> bytes:
    """The bytes after all changes."""
    result = bytearray(content)
    for place, value, what in changes:
        place = min(place, len(result) - 1)
        result[place : place + (what != "insert")] = b"" if what == "drop" else bytes([value])
    return bytes(result)
