"""A folder in AudioSet's layout that tests fill as they like."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiotag.configcorpus import AudioSetCorpus
from audiotag.corpora.audioset import prepare_audioset
from audiotag.seal import unsealed
from tests.corpora.classes import MIDS

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
corpus: {dir: corpus, train_lists: [train_segments.csv], eval_lists: [eval_segments.csv]}
features: {target_frames: 64}
"""


class Folder:
    """A corpus below a temporary folder, and what stage 1 makes of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.corpus = root / "corpus"
        self.data = root / "data"
        self.manifests = self.data / "manifests"
        self.audio = self.corpus / "audio"
        self.audio.mkdir(parents=True)
        self.rows: dict[str, list[str]] = {"train": [], "eval": []}
        lines = [f'{index},{mid},"Class, number {index}"' for index, mid in enumerate(MIDS)]
        (self.corpus / "class_labels_indices.csv").write_text("index,mid,display_name\n" + "\n".join(lines))

    def wav(self, name: str, seconds: float = 0.5, rate: int = 16000, channels: int = 1, **options) -> Path:
        """Write noise of its own to a file below the audio folder."""
        path = self.audio / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(list(name.encode()))
        samples = 0.1 * rng.standard_normal((round(seconds * rate), channels))
        soundfile.write(path, samples.astype(np.float32), rate, **options)
        return path

    def listed(
        self, split: str, clip_id: str, mids: str = MIDS[0], start: float = 0.0, length: float = 10.0
    ) -> None:
        """Add a row to a split's list."""
        self.rows[split].append(f'{clip_id}, {start:.3f}, {start + length:.3f}, "{mids}"')

    def clip(self, split: str, clip_id: str, mids: str = MIDS[0], **options) -> Path:
        """A good clip: listed and present."""
        self.listed(split, clip_id, mids, length=max(10.0, options.get("seconds", 0.0)))
        return self.wav(f"{split}/{clip_id}.wav", **options)

    def write_lists(self) -> None:
        """Write both segment lists."""
        comments = [
            "# Segments csv created by hand",
            "# num_ytids=?",
            "# YTID, start_seconds, end_seconds, labels",
        ]
        for split, rows in self.rows.items():
            (self.corpus / f"{split}_segments.csv").write_text("\n".join([*comments, *rows]) + "\n")

    def prepare(self, **options) -> None:
        """Run stage 1 in this process."""
        self.write_lists()
        defaults = {
            "dir": str(self.corpus),
            "train_lists": ["train_segments.csv"],
            "valid_share": 0.0,
            "max_skip": 1.0,
        }
        prepare_audioset(self.manifests, AudioSetCorpus(**{**defaults, **options}))

    def cuts(self, split: str) -> dict[str, dict]:
        """The cuts of a split by id."""
        lines = (self.manifests / f"cuts_{split}.jsonl").read_text().splitlines()
        return {record["id"]: record for record in map(json.loads, lines)}

    def skipped(self, split: str) -> dict[str, str]:
        """Reasons by id."""
        with (self.manifests / f"skipped_{split}.csv").open(newline="") as file:
            return {row["id"]: row["reason"] for row in csv.DictReader(file)}

    def coverage(self) -> dict:
        """What coverage.json says."""
        return unsealed(json.loads((self.manifests / "coverage.json").read_text()))

    def run(self, module: str, *arguments: str, config: str | None = CONFIG) -> subprocess.CompletedProcess:
        """Run a command of the package in the folder, with a configuration unless that is None."""
        if config is not None:
            (self.root / "config.yaml").write_text(config)
            arguments = ("--config", "config.yaml", *arguments)
        return subprocess.run(
            [sys.executable, "-m", f"audiotag.bin.{module}", *arguments],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def folder(tmp_path) -> Folder:
    """An empty corpus."""
    return Folder(tmp_path)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Folder:
    """Forty good clips of several rates, channels and lengths, through stage 1; tests only read it."""
    folder = Folder(tmp_path_factory.mktemp("prepared"))
    rng = np.random.default_rng(0)
    for number in range(40):
        mids = ",".join(rng.choice(MIDS, size=rng.integers(0, 4), replace=False))
        rate = (16000, 16000, 44100, 8000)[number % 4]
        folder.clip(
            "train" if number < 34 else "eval",
            f"clip-_{number:05d}",
            mids,
            seconds=0.3 + 0.02 * number,
            rate=rate,
            channels=1 + number % 2,
        )
    folder.prepare(valid_share=0.2)
    return folder
