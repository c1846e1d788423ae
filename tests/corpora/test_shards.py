"""Damage to stored features is noticed when stage 2 runs again, and only what is damaged is made again."""

from __future__ import annotations

import logging
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.corpora.features import extract_features
from audiotag.corpora.shards import LARGEST_SHARD, LARGEST_SHARD_S, shard_bounds
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_features
from tests.corpora.conftest import ROOT, Folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Folder:
    """Seventy clips in three shards; tests copy the folder of features before they damage it."""
    folder = Folder(tmp_path_factory.mktemp("stored"))
    for number in range(70):
        folder.clip("train", f"clip_{number:06d}", seconds=0.2)
    folder.clip("eval", "eval_______", seconds=0.2)
    folder.prepare()
    extract(folder, folder.data / "fbank" / "ast128")
    return folder


def extract(folder: Folder, fbank: Path) -> IndexedManifest:
    """Run stage 2 on the training split."""
    manifest = IndexedManifest(folder.manifests / "cuts_train.jsonl")
    extract_features(manifest, fbank / "cuts_train.jsonl", preset="ast128")
    return IndexedManifest(fbank / "cuts_train.jsonl")


def archives(fbank: Path, suffix: str = ".lca") -> list[Path]:
    return sorted((fbank / "archives").glob(f"*{suffix}"))


def flip_byte(path: Path, place: float) -> None:
    """Turn one bit of a file around and leave its size and time as they were."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)
    subprocess.run(["touch", "-d", f"@{status.st_mtime}", str(path)], check=True)


def cut_off(fbank: Path) -> None:
    path = archives(fbank)[1]
    path.write_bytes(path.read_bytes()[:-1])


def swap(fbank: Path) -> None:
    """Two archives of the same size change places."""
    first, second, _ = archives(fbank)
    content = first.read_bytes()
    size = second.stat().st_size
    first.write_bytes(second.read_bytes())
    second.write_bytes(content[:size].ljust(size, b"\0"))


def change_a_cut(fbank: Path) -> None:
    path = archives(fbank, ".jsonl")[1]
    path.write_bytes(path.read_bytes().replace(b'"audio_event": "0"', b'"audio_event": "1"', 1))


def write_rubbish(fbank: Path) -> None:
    archives(fbank, ".jsonl")[1].write_bytes(b"\xff rubbish")


DAMAGE = {
    "first byte": (lambda fbank: flip_byte(archives(fbank)[1], 0.0), {1}, "holds other bytes"),
    "some byte": (lambda fbank: flip_byte(archives(fbank)[1], 0.6), {1}, "holds other bytes"),
    "last byte": (lambda fbank: flip_byte(archives(fbank)[1], 1.0), {1}, "holds other bytes"),
    "cut off": (cut_off, {1}, "bytes, "),
    "swapped": (swap, {0, 1}, "lca h"),
    "gone": (lambda fbank: archives(fbank)[1].unlink(), {1}, "lca is missing"),
    "manifest changed": (change_a_cut, {1}, "jsonl was changed"),
    "manifest rubbish": (write_rubbish, {1}, "cannot be read"),
    "manifest gone": (lambda fbank: archives(fbank, ".jsonl")[1].unlink(), {1}, None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_only_damaged_shards_are_made_again(stored, damage, caplog):
    whole = {path.name: path.read_bytes() for path in archives(stored.data / "fbank" / "ast128")}
    fbank = stored.data / "fbank" / "ast128"
    spare = stored.data / "spare"
    shutil.copytree(fbank, spare, dirs_exist_ok=True)
    hurt, numbers, message = DAMAGE[damage]
    try:
        hurt(fbank)
        before = [path.stat().st_ino if path.exists() else 0 for path in map(fbank.joinpath, names(spare))]
        with caplog.at_level(logging.INFO):
            again = extract(stored, fbank)
        after = [path.stat().st_ino for path in map(fbank.joinpath, names(spare))]
        redone = {number for number, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}
        assert redone == numbers
        assert {path.name: path.read_bytes() for path in archives(fbank)} == whole
        assert load_features(again.record(40)).shape == (18, 128)
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == (len(numbers) if message else 0)
        assert all(message in text and "making this part again" in text for text in warnings)
        assert f"3 shards, {len(numbers)} to do" in caplog.text
    finally:
        shutil.rmtree(fbank)
        spare.rename(fbank)


def names(fbank: Path) -> list[str]:
    return [f"archives/{path.name}" for path in archives(fbank)]


def test_features_that_were_moved_are_not_taken_for_finished(stored, tmp_path, caplog):
    """Their manifests still point at the old place."""
    shutil.copytree(stored.data / "fbank" / "ast128", tmp_path / "moved")
    again = extract(stored, tmp_path / "moved")
    assert caplog.text.count("points at") == 3
    assert again.record(0)["features"]["storage_path"].startswith(str(tmp_path / "moved"))


def test_a_full_disk_ends_in_one_line_and_keeps_what_is_finished(folder):
    """A limit on the size of files is refused by the system in the same way as a full disk."""
    for number in range(64):
        folder.clip("train", f"clip_{number:06d}", seconds=0.2 if number < 32 else 1.0)
    folder.clip("eval", "eval_______", seconds=0.2)
    folder.prepare()
    (folder.root / "config.yaml").write_text("features: {preset: ast128}\n")
    done = subprocess.run(
        # -B: the limit would cut off Python's own byte-code files too.
        [sys.executable, "-B", "-m", "audiotag.bin.extract_features", "--config", "config.yaml", "--nj", "2"],
        cwd=folder.root,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert done.returncode == 6, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "archives/train-00000032-" in line and "free some space and run the same command again" in line
    assert "Traceback" not in done.stderr
    fbank = folder.data / "fbank" / "ast128"
    [kept] = archives(fbank)
    assert not list((fbank / "archives").glob(".*")) and not (fbank / "cuts_train.jsonl").exists()
    before = kept.stat().st_ino
    assert len(extract(folder, fbank)) == 64
    assert kept.stat().st_ino == before


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.floats(0.1, 9000.0), min_size=1, max_size=200), st.integers(1, 40))
def test_shards_hold_every_cut_once_within_their_limits(durations, repetitions):
    durations = np.tile(np.array(durations, dtype=np.float32), repetitions)
    bounds = shard_bounds(durations)
    assert [start for start, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
    assert bounds[-1][1] == len(durations)
    for start, end in bounds:
        assert 1 <= end - start <= LARGEST_SHARD
        assert end - start == 1 or durations[start:end].astype(np.float64).sum() <= LARGEST_SHARD_S + 1e-3


def test_two_million_clips_of_ten_seconds():
    bounds = shard_bounds(np.full(2_000_000, 10.0, dtype=np.float32))
    assert len(bounds) == 4000
