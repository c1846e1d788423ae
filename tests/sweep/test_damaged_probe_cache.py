"""Damaged caches of stage 1: whatever the cache says, the probes are those of the files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiotag.corpora.probecache import probe_files
from tests.sweep import damage
from tests.sweep.reading import Refusal, read


class Cached:
    """Some small files, their probes and a cache of these."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "probes.jsonl"
        self.paths = []
        for number in range(3):
            path = folder / f"{number}.wav"
            samples = np.random.default_rng(number).uniform(-0.5, 0.5, 100 + number)
            soundfile.write(path, samples, 8000 * (number + 1))
            self.paths.append(str(path))
        self.paths.append(str(folder / "text.wav"))
        Path(self.paths[-1]).write_text("no sound")
        self.probes = probe_files(self.paths, cache=self.cache)
        self.content = self.cache.read_bytes()

    def with_cache(self, content: bytes) -> str:
        """Why this cache breaks the promise, used twice; "" when it keeps it."""
        self.cache.write_bytes(content)
        try:
            for _ in range(2):
                probes = probe_files(self.paths, cache=self.cache)
                for path, probe in self.probes.items():
                    if repr(probes.get(path)) != repr(probe):
                        return f"{probes.get(path)} instead of {probe}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:300]
        return ""


@pytest.fixture
def cached(tmp_path):
    return Cached(tmp_path)


def test_a_good_cache_is_believed(cached):
    assert not cached.with_cache(cached.content)
    assert cached.cache.read_bytes() == cached.content


def edited(place: int, value: object) -> damage.Damage:
    """Put another value into the first line's list."""

    def change(content: bytes) -> bytes:
        first, *others = content.splitlines(keepends=True)
        row = json.loads(first)
        row[place] = value
        return b"".join([json.dumps(row).encode() + b"\n", *others])

    return change


CONTENTS = {
    "empty": lambda content: b"",
    "newlines": lambda content: b"\n\n\n",
    "no newline at the end": lambda content: content.rstrip(b"\n"),
    "zeros": lambda content: bytes(1000),
    "noise": lambda content: damage.noise(1000),
    "noise in front": lambda content: damage.noise(100) + content,
    "noise behind": lambda content: content + damage.noise(100),
    "zeros behind": lambda content: content + bytes(512),
    "twice": lambda content: content + content,
    "reversed": lambda content: b"\n".join(content.splitlines()[::-1]),
    "CRLF": lambda content: content.replace(b"\n", b"\r\n"),
    "BOM": lambda content: b"\xef\xbb\xbf" + content,
    "null": lambda content: b"null\n",
    "a number": lambda content: b"7\n",
    "an object": lambda content: b'{"a": 1}\n',
    "an empty list": lambda content: b"[]\n",
    "text": lambda content: b'"text"\n',
    "brackets": lambda content: b"[" * 100_000 + b"\n",
    "many digits": lambda content: b"[" + b"9" * 10_000 + b"]\n",
    "a short line": lambda content: b"[1]\n",
    "an earlier format": lambda content: content.replace(b"[", b"[0", 1),
    "half of each line": lambda content: b"\n".join(line[: len(line) // 2] for line in content.splitlines()),
    "a dict for a path": edited(1, {}),
    "a list for a path": edited(1, []),
    "a list of lists for a path": edited(1, [[]]),
    "null for a path": edited(1, None),
    "a number for a path": edited(1, 5),
    "text for a size": edited(2, "big"),
    "null for a time": edited(3, None),
    **{
        f"{value!r} in column {place}": edited(place, value)
        for place in range(4, 8)
        for value in (None, "x", -1, 0, [], {}, True, 1e300, float("nan"))
    },
}


@pytest.mark.parametrize("name", CONTENTS)
def test_another_content(cached, name):
    assert not cached.with_cache(CONTENTS[name](cached.content))


def test_cut_off_anywhere(cached):
    failures = [
        f"cut to {length} bytes: {why}"
        for length in range(0, len(cached.content), 7)
        for why in [cached.with_cache(cached.content[:length])]
        if why
    ]
    assert not failures, "\n".join(failures[:10])


def test_any_byte_flipped(cached):
    failures = [
        f"byte {place}: {why}"
        for place in range(len(cached.content))
        for why in [cached.with_cache(damage.with_bit(place, place % 8)(cached.content))]
        if why
    ]
    assert not failures, "\n".join(failures[:10])


def test_digits_changed(cached):
    """A number becomes another number, and the line stays good JSON."""
    rng = random.Random(0)
    places = [place for place, byte in enumerate(cached.content) if chr(byte).isdigit()]
    failures = []
    for place in rng.sample(places, 100):
        digit = bytes([(cached.content[place] - ord("0") + 1) % 10 + ord("0")])
        why = cached.with_cache(damage.with_field(place, digit)(cached.content))
        if why:
            failures.append(f"byte {place}: {why}")
    assert not failures, "\n".join(failures[:10])


def test_the_cache_of_another_corpus(cached, tmp_path):
    """Other files under the same names, and the same files elsewhere."""
    (tmp_path / "other").mkdir()
    other = Cached(tmp_path / "other")
    assert not cached.with_cache(other.content)
    assert not cached.with_cache(other.content + cached.content)


@pytest.mark.parametrize("link", [False, True], ids=["folder", "link to itself"])
def test_what_is_no_file(cached, link):
    """A message that names it, or no cache."""
    cached.cache.unlink()
    if link:
        cached.cache.symlink_to(cached.cache)
    else:
        cached.cache.mkdir()
    probes = read(lambda: probe_files(cached.paths, cache=cached.cache), cached.cache)
    assert isinstance(probes, Refusal) or probes == cached.probes
