"""Damaged archives of stage 2: the features that were stored, or an error that names clip and archive."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from audiotag.corpora.features import extract_features
from audiotag.corpora.probe import probe_file
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_features
from tests.sweep import damage
from tests.sweep.reading import Refusal, read
from tests.sweep.sounds import cut_of

PRESET = "ast128"


def store(folder: Path, seed: int) -> SimpleNamespace:
    """Six clips with their features."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(6):
        path = folder / f"{number}.wav"
        rng = np.random.default_rng([seed, number])
        soundfile.write(path, rng.uniform(-0.5, 0.5, 4000 + 160 * number), 16000)
        record = {**cut_of(str(path), probe_file(str(path))), "id": f"clip{number}"}
        lines.append(json.dumps(record) + "\n")
    (folder / "cuts_train.jsonl").write_text("".join(lines))
    stored = SimpleNamespace(folder=folder, cuts=IndexedManifest(folder / "cuts_train.jsonl"))
    stored.result = folder / "fbank" / "cuts_train.jsonl"
    extract_features(stored.cuts, stored.result, preset=PRESET)
    return refreshed(stored)


def refreshed(stored: SimpleNamespace) -> SimpleNamespace:
    """The records of the manifest, its archive and the features."""
    manifest = IndexedManifest(stored.result)
    stored.records = [manifest.record(position) for position in range(len(manifest))]
    stored.archive = Path(stored.records[0]["features"]["storage_path"])
    stored.content = stored.archive.read_bytes()
    stored.features = [load_features(record) for record in stored.records]
    return stored


@pytest.fixture(scope="module")
def stored(module_folder):
    return store(module_folder / "one", seed=1)


@pytest.fixture(scope="module")
def other(module_folder):
    return store(module_folder / "two", seed=2)


@pytest.fixture
def archive(stored):
    """The archive, which a test may damage."""
    yield stored.archive
    if stored.archive.is_dir() and not stored.archive.is_symlink():
        shutil.rmtree(stored.archive)
    stored.archive.unlink(missing_ok=True)
    stored.archive.write_bytes(stored.content)


def failures_of(stored: SimpleNamespace) -> list[str]:
    """Clips whose features break the promise."""
    failures = []
    for record, good in zip(stored.records, stored.features, strict=True):
        try:
            features = read(lambda record=record: load_features(record), stored.archive)
        except AssertionError as error:
            failures.append(f"{record['id']}: {error}")
            continue
        if isinstance(features, Refusal):
            if record["id"] not in features:
                failures.append(f"the message does not name {record['id']}: {features}")
        elif features.shape != good.shape or not np.array_equal(features, good):
            difference = np.abs(features - good).max() if features.shape == good.shape else math.nan
            failures.append(f"{record['id']}: features {features.shape} differ by up to {difference:.3g}")
    return failures


CONTENTS = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "without the last byte": lambda content: content[:-1],
    "more behind": lambda content: content + damage.noise(100),
    "text": lambda content: b"not features\n" * 1000,
}
# The bytes are there, but they are not those that were written.
CHANGED = {
    "zeros": lambda content: bytes(len(content)),
    "ones": lambda content: b"\xff" * len(content),
    "noise": lambda content: damage.noise(len(content)),
    "one byte in front": lambda content: b"\0" + content,
    "a byte missing": lambda content: content[: len(content) // 2] + content[len(content) // 2 + 1 :] + b"\0",
    "a zeroed block": damage.overwritten(0.5, 512),
    "swapped halves": lambda content: content[len(content) // 2 :] + content[: len(content) // 2],
    "reversed": lambda content: content[::-1],
}


@pytest.mark.parametrize("name", [*CONTENTS, *CHANGED])
def test_an_archive_with_another_content(stored, archive, name):
    archive.write_bytes({**CONTENTS, **CHANGED}[name](stored.content))
    assert not failures_of(stored)


def test_an_archive_cut_off_anywhere(stored, archive):
    failures = []
    for length in range(0, len(stored.content), len(stored.content) // 60):
        archive.write_bytes(stored.content[:length])
        failures += [f"cut to {length} bytes: {why}" for why in failures_of(stored)]
    assert not failures, "\n".join(failures[:10])


def test_bits_of_an_archive_flipped(stored, archive):
    rng = random.Random(0)
    failures = []
    for _ in range(100):
        place, bit = rng.randrange(len(stored.content)), rng.randrange(8)
        archive.write_bytes(damage.with_bit(place, bit)(stored.content))
        failures += [f"bit {bit} of byte {place}: {why}" for why in failures_of(stored)]
    assert not failures, f"{len(failures)} of 100:\n" + "\n".join(failures[:10])


def test_the_archive_of_another_manifest(stored, archive, other):
    archive.write_bytes(other.content)
    assert not failures_of(stored)


@pytest.mark.parametrize("what", ["gone", "folder", "link to itself", "link to nothing", "link to zeros"])
def test_what_is_no_archive(stored, archive, what):
    archive.unlink()
    if what == "folder":
        archive.mkdir()
    elif what.startswith("link"):
        archive.symlink_to(
            {"link to itself": archive, "link to nothing": "gone", "link to zeros": "/dev/zero"}[what]
        )
    assert not failures_of(stored)


FIELDS = {
    "storage_key": ["", "x", "-1,5", "0", "0,0", "0,999999999", "999999999,5", "5,5,5", None, 5, [], "0,1e3"],
    "storage_path": ["", "/nowhere.lca", None, [], "a\0b"],
    "storage_type": ["", "unknown", None, "numpy_files", "lilcom_url", "memory_raw"],
    "num_frames": [0, -1, 1, 10_000, None, "x", 1.5],
    "num_features": [0, 1, 80, None, "x"],
    "start": [1.0, -1.0, None, "x"],
    "duration": [0.0, 100.0, None, "x"],
    "frame_shift": [0.0, -0.01, None, "x"],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in FIELDS.items() for value in values], ids=str
)
def test_a_pointer_that_was_changed(stored, field, value):
    """The features of the clip, or an error that names it: nothing else that lies in the archive."""
    for record, good in zip(stored.records[:2], stored.features, strict=False):
        changed = {**record, "features": {**record["features"], field: value}}
        try:
            features = load_features(changed)
        except Exception as error:
            from audiotag.errors import DataError

            assert isinstance(error, DataError) and record["id"] in str(error), repr(error)
        else:
            assert features.shape == good.shape and np.array_equal(features, good), features.shape


@pytest.mark.parametrize("missing", list(FIELDS))
def test_a_pointer_with_a_missing_key(stored, missing):
    record = stored.records[0]
    changed = {
        **record,
        "features": {key: value for key, value in record["features"].items() if key != missing},
    }
    message = read(lambda: load_features(changed), Path("clip0"))
    assert isinstance(message, Refusal) or np.array_equal(message, stored.features[0])


@pytest.mark.parametrize("name", [*CONTENTS, *CHANGED, "gone"])
def test_stage_2_mends_a_damaged_archive(module_folder, name):
    """Run again, it makes anew what is not as it was written."""
    made = store(module_folder / "again", seed=3)
    good = made.features
    if name == "gone":
        made.archive.unlink()
    else:
        made.archive.write_bytes({**CONTENTS, **CHANGED}[name](made.content))
    extract_features(made.cuts, made.result, preset=PRESET)
    again = refreshed(made).features
    assert all(np.array_equal(one, two) for one, two in zip(again, good, strict=True))
    shutil.rmtree(made.folder)


def test_what_is_no_file_in_the_place_of_a_shard(module_folder):
    """A link to itself is replaced; a folder is named."""
    made = store(module_folder / "again", seed=3)
    for path in [path for path in made.archive.parent.iterdir() if path.suffix in (".lca", ".jsonl")]:
        path.unlink()
        path.symlink_to(path)
        extract_features(made.cuts, made.result, preset=PRESET)
        assert all(map(np.array_equal, refreshed(made).features, made.features))
        path.unlink()
        path.mkdir()
        again = read(lambda: extract_features(made.cuts, made.result, preset=PRESET), path)
        assert isinstance(again, Refusal) and "run stage 2 again" in again
        path.rmdir()
    shutil.rmtree(made.folder)


def test_stage_2_mends_the_other_files_beside_the_archive(module_folder):
    """Each of them cut in half, emptied, with a byte flipped, with noise inside."""
    made = store(module_folder / "again", seed=3)
    good = made.features
    beside = [path for path in made.archive.parent.iterdir() if path != made.archive]
    assert beside
    for path in [*beside, made.result]:
        for change in (
            lambda content: content[: len(content) // 2],
            lambda content: b"",
            damage.with_flips(1, 0.0, 1.0),
            lambda content: damage.noise(500) + content,
            lambda content: b"[" * 50_000 + b"\n" + content,
        ):
            path.write_bytes(change(path.read_bytes()))
            extract_features(made.cuts, made.result, preset=PRESET)
            again = refreshed(made).features
            assert all(np.array_equal(one, two) for one, two in zip(again, good, strict=True)), path
    shutil.rmtree(made.folder)
