"""What stages 1 and 4 leave, less the audio, and a file of it to damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from audiotag.corpora.manifests import write_json
from tests.sweep.reading import read

NAME = "ast128-64"
NUMBERS = {
    "listed": 12,
    "present": 10,
    "skipped": {"missing": 2},
    "seconds": 98.5,
    "classes": {"/m/1": {"listed": 3, "present": 2}},
}
COVERAGE = {
    "train": NUMBERS,
    "valid": {**NUMBERS, "listed": 3},
    "eval": {**NUMBERS, "present": 12},
    "notes": {},
}
MEASURED = {
    "mean": -4.25,
    "std": 4.5,
    "num_values": 123456,
    "num_clips": 6,
    "of_clips": 6,
    "target_frames": 64,
}
STATS = {"train": MEASURED, "valid": {**MEASURED, "mean": -4.5}, "eval": {**MEASURED, "std": 4.75}}
IDS = [f"clip-_{number}" for number in range(6)]
WEIGHTS = np.array([0.5, 1.25, 999.0, 0.0, 3.5, 0.001])


def make_data_dir(folder: Path) -> Path:
    """A data folder; whoever damages its files makes them good again."""
    write_json(folder / "manifests" / "coverage.json", COVERAGE)
    write_json(folder / "stats" / NAME / "stats.json", STATS)
    lines = [json.dumps({"id": clip_id, "duration": 1.0}) + "\n" for clip_id in IDS]
    (folder / "manifests" / "cuts_train.jsonl").write_text("".join(lines))
    with (folder / "stats" / NAME / "weights_train.npz").open("wb") as file:
        np.savez(file, ids=np.array([clip_id.encode() for clip_id in IDS]), weights=WEIGHTS)
    return folder


class Damaged:
    """A file of the data folder, and a function that reads it."""

    def __init__(self, path: Path, function) -> None:
        self.path = path
        self.content = path.read_bytes()
        self.read = lambda: read(function, path)
        self.good = self.read()

    def with_content(self, content: bytes):
        self.path.write_bytes(content)
        return self.read()

    def restore(self) -> None:
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        self.path.unlink(missing_ok=True)
        self.path.write_bytes(self.content)
