"""What may happen to a file of any kind, as a list that every sweep of a kind goes through."""

from __future__ import annotations

import io
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.sweep import damage
from tests.sweep.reading import Refusal, read

CUTS, FLIPS = 30, 100


def other_kinds() -> dict[str, bytes]:
    """Files of other kinds, which came under this one's name."""
    archive, tensors, arrays = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "text")
    torch.save([1, 2], tensors)
    np.savez(arrays, a=np.zeros(3))
    return {
        "empty": b"",
        "a line end": b"\n",
        "zeros": bytes(5000),
        "noise": damage.noise(5000),
        "text": b"not what is expected\n" * 50,
        "a page": b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>\n",
        "a list": b"[1, 2, 3]",
        "an object": b'{"a": {"b": null}}',
        "deep": b"[" * 100_000,
        "a number": b"1e999",
        "YAML": b"a: [1, 2\n",
        "a picture": b"\x89PNG\r\n\x1a\n" + damage.noise(100),
        "sound": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(100),
        "an archive": archive.getvalue(),
        "tensors": tensors.getvalue(),
        "arrays": arrays.getvalue(),
        "a pickle": pickle.dumps({"model": {}}),
        "long header": (1 << 60).to_bytes(8, "little") + b"{}" * 50,
    }


def damages(seed: int) -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    """Each damage with its name: other content, cuts, flipped bits, blocks that are wrong or missing."""
    chance = random.Random(seed)
    for name, content in other_kinds().items():
        yield name, lambda good, content=content: content
    for number in range(CUTS):
        yield f"cut {number}", damage.cut_to_share(chance.random())
    yield "without the last byte", damage.cut_to(-1)
    for number in range(FLIPS):
        count = 1 if number % 2 else chance.randint(2, 20)
        yield f"flips {number}", damage.with_flips(chance.randrange(1 << 30), 0.0, 1.0, count)
    for number in range(10):
        start = chance.random()
        yield f"zeroed {number}", damage.overwritten(start, chance.randint(8, 600))
        yield f"ones {number}", damage.overwritten(start, chance.randint(8, 600), 255)
        yield f"hole {number}", damage.without(start, chance.randint(1, 600))
    yield "more behind", damage.appended(damage.noise(100))
    yield "more in front", damage.prepended(b"\0")


def sweep(
    path: Path,
    function: Callable[[], Any],
    same: Callable[[Any], bool],
    *,
    believed: bool = False,
    named: Path | None = None,
    seed: int = 0,
) -> int:
    """Read a file after each damage: it must be refused by name, or what is read must be the same.

    Args:
        path: a good file, which is good again afterwards.
        function: reads it.
        same: whether what was read is what the good file holds.
        believed: whatever can be read is believed, as of text that people write.
        named: what a message must name; None is the file.
        seed: of the damages.

    Returns the number of damages.
    """
    good = path.read_bytes()
    assert same(function())
    failures, count = [], 0
    try:
        for name, change in damages(seed):
            path.write_bytes(change(good))
            count += 1
            try:
                found = read(function, named or path)
            except AssertionError as error:
                failures.append(f"{name}: {error}")
                continue
            if not (isinstance(found, Refusal) or believed or same(found)):
                failures.append(f"{name}: another result")
    finally:
        path.write_bytes(good)
    assert not failures, f"{len(failures)} of {count}:\n" + "\n".join(failures[:20])
    return count
