"""Damaged files of stages 1 and 4: coverage, statistics, sampling weights."""

from __future__ import annotations

import io
import json
import math
import pickle
import random
import re
import zipfile

import numpy as np
import pytest

from audiotag.corpora.stats import load_sampling_weights, load_stats
from audiotag.data.index import IndexedManifest
from audiotag.data.splits import read_coverage
from tests.sweep import damage
from tests.sweep.datadir import COVERAGE, MEASURED, NAME, STATS, WEIGHTS, Damaged, make_data_dir
from tests.sweep.reading import Refusal


@pytest.fixture(scope="module")
def data_dir(module_folder):
    return make_data_dir(module_folder)


@pytest.fixture(scope="module")
def manifest(data_dir):
    return IndexedManifest(data_dir / "manifests" / "cuts_train.jsonl")


@pytest.fixture(params=["coverage", "stats", "weights"])
def damaged(request, data_dir, manifest):
    """Each of the three files."""
    stats = data_dir / "stats" / NAME
    made = {
        "coverage": lambda: Damaged(
            data_dir / "manifests" / "coverage.json", lambda: read_coverage(data_dir)
        ),
        "stats": lambda: Damaged(stats / "stats.json", lambda: load_stats(data_dir, NAME)),
        "weights": lambda: Damaged(
            stats / "weights_train.npz", lambda: load_sampling_weights(data_dir, NAME, manifest).tolist()
        ),
    }[request.param]()
    yield made
    made.restore()


@pytest.fixture
def stats_with(data_dir):
    """A function from the text of stats.json to what is read of it."""
    made = Damaged(data_dir / "stats" / NAME / "stats.json", lambda: load_stats(data_dir, NAME))
    yield lambda text: made.with_content(text.encode())
    made.restore()


@pytest.fixture
def coverage_with(data_dir):
    """A function from the text of coverage.json to what is read of it."""
    made = Damaged(data_dir / "manifests" / "coverage.json", lambda: read_coverage(data_dir, NAME))
    yield lambda text: made.with_content(text.encode())
    made.restore()


def test_good_files(data_dir, manifest):
    assert load_stats(data_dir, NAME) == MEASURED
    assert {split: read_coverage(data_dir)[split] for split in ("train", "valid", "eval")} == {
        split: COVERAGE[split] for split in ("train", "valid", "eval")
    }
    assert load_sampling_weights(data_dir, NAME, manifest).tolist() == WEIGHTS.tolist()


CONTENTS = {
    "empty": b"",
    "a newline": b"\n",
    "zeros": bytes(500),
    "ones": b"\xff" * 500,
    "noise": damage.noise(500),
    "text": b"This is a text.\n",
    "HTML": b"<!DOCTYPE html>\n",
    "Latin-1": '{"é": 1}'.encode("latin-1"),
    "UTF-16": json.dumps(STATS).encode("utf-16"),
    "null": b"null",
    "a number": b"5",
    "a string": b'"text"',
    "a list": b"[]",
    "a list of objects": b"[{}]",
    "brackets": b"[" * 100_000,
    "nested": b'{"train": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a zip without files": b"PK\x05\x06" + bytes(18),
    "a zip of text": None,
    "an array": None,
    "a pickle": pickle.dumps({"train": MEASURED}),
}


def special(name: str) -> bytes:
    """Contents that take more than a line to make."""
    file = io.BytesIO()
    if name == "an array":
        np.save(file, WEIGHTS)
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("ids.npy", "text")
            archive.writestr("weights.npy", "text")
    return file.getvalue()


@pytest.mark.parametrize("name", CONTENTS)
def test_another_content(damaged, name):
    found = damaged.with_content(CONTENTS[name] if CONTENTS[name] is not None else special(name))
    assert isinstance(found, Refusal) and re.search(r"run stage [14] again", found), found


def test_cut_off_anywhere(damaged):
    step = max(1, len(damaged.content) // 150)
    for length in range(0, len(damaged.content), step):
        found = damaged.with_content(damaged.content[:length])
        assert isinstance(found, Refusal) or found == damaged.good, f"cut to {length}: {found}"


def test_what_is_behind(damaged):
    for behind in (b"\0", damage.noise(100), damaged.content, b"{}"):
        found = damaged.with_content(damaged.content + behind)
        assert isinstance(found, Refusal) or found == damaged.good, found


@pytest.mark.parametrize("what", ["gone", "folder", "link to itself", "link to zeros", "link to nothing"])
def test_what_is_no_file(damaged, what):
    if what == "link to zeros":
        pytest.skip("reads without end: nobody puts a device there")
    damaged.path.unlink()
    if what == "folder":
        damaged.path.mkdir()
    elif what.startswith("link"):
        damaged.path.symlink_to({"link to itself": damaged.path, "link to nothing": "gone"}[what])
    found = damaged.read()
    assert isinstance(found, Refusal) and re.search(r"run stage [14] again|stage [14] makes it", found), found


def test_any_bit_of_the_json_files_flipped(data_dir):
    """JSON has no checksums: another digit is believed, but what is read can be worked with."""
    rng = random.Random(0)
    stats = Damaged(data_dir / "stats" / NAME / "stats.json", lambda: load_stats(data_dir, NAME))
    coverage = Damaged(data_dir / "manifests" / "coverage.json", lambda: read_coverage(data_dir))
    try:
        for _ in range(400):
            change = damage.with_flips(rng.randrange(1 << 30), 0.0, 1.0)
            found = stats.with_content(change(stats.content))
            if not isinstance(found, Refusal):
                assert math.isfinite(found["mean"]) and 0 < found["std"] < math.inf, found
            found = coverage.with_content(change(coverage.content))
            assert isinstance(found, (Refusal, dict))
    finally:
        stats.restore()
        coverage.restore()


BAD_STATISTICS = [
    "{}",
    '{"train": null}',
    '{"train": []}',
    '{"train": 5}',
    '{"train": {}}',
    '{"train": {"mean": 1.0}}',
    '{"train": {"std": 1.0}}',
    *(
        f'{{"train": {{"mean": {mean}, "std": {std}, "num_clips": 6}}}}'
        for mean, std in (
            ("NaN", "1"),
            ("Infinity", "1"),
            ("null", "1"),
            ('"x"', "1"),
            ("[]", "1"),
            ("1" + "0" * 400, "1"),
            ("1", "0"),
            ("1", "-1"),
            ("1", "NaN"),
            ("1", "Infinity"),
            ("1", "null"),
            ("1", '"x"'),
            ("1", "{}"),
            ("1", "1" + "0" * 400),
            ("1e400", "1"),
            ("1", "1e400"),
            ("true", "true"),
        )
    ),
    '{"valid": {"mean": 1.0, "std": 1.0}}',
    '{"train": {"mean": 1.0, "std": 1.0}, "eval": {"mean": NaN, "std": 1.0}}',
    '{"train": {"mean": 1.0, "std": 1.0}, "eval": null}',
]


@pytest.mark.parametrize("text", BAD_STATISTICS, ids=lambda text: text[:60])
def test_numbers_that_cannot_normalise(stats_with, text):
    found = stats_with(text)
    assert isinstance(found, Refusal), found


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "null",
        '{"train": null}',
        '{"train": []}',
        '{"train": 5, "eval": "x"}',
        '{"train": {"listed": "x", "present": null}}',
        '{"train": {"listed": -1, "present": 5}}',
        '{"train": {"listed": 1, "present": 1, "classes": 5}}',
        '{"notes": {}}',
    ],
)
def test_coverage_of_another_form(coverage_with, text):
    """Read together with stage 4's statistics, which are put into the entries of its splits."""
    found = coverage_with(text)
    assert isinstance(found, Refusal) or (
        isinstance(found, dict) and all(isinstance(entry, dict) for entry in found.values())
    )
