"""A user's own corpus that tests fill as they like, and what stage 1 makes of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import soundfile

from audiotag.configcorpus import MyDataCorpus
from audiotag.corpora.mydata import prepare_mydata


class OwnCorpus:
    """A folder with a blank in its name."""

    def __init__(self, root: Path) -> None:
        self.root = root / "my corpus"
        self.manifests = root / "data" / "manifests"
        self.root.mkdir()

    def clip(self, name: str, seconds: float = 0.4, rate: int = 16000, channels: int = 1, **options) -> Path:
        """Write noise that is like no other file's."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(list(str(name).encode("utf-8", "surrogateescape")))
        samples = 0.1 * rng.standard_normal((round(seconds * rate), channels))
        soundfile.write(path, samples.astype(np.float32), rate, **options)
        return path

    def list(self, *lines: str, name: str = "list.csv", encoding: str = "utf-8", end: str = "\n") -> Path:
        """Write a CSV of these lines."""
        path = self.root / name
        path.write_bytes("".join(line + end for line in lines).encode(encoding))
        return path

    def prepare(self, **settings) -> None:
        """Run stage 1 with these keys of the `corpus` section."""
        defaults = {"dir": str(self.root), "valid_share": 0.0, "max_skip": 1.0}
        prepare_mydata(self.manifests, MyDataCorpus.model_validate({**defaults, **settings}))

    def cuts(self, split: str) -> dict[str, dict]:
        """The cuts of a split by id."""
        lines = (self.manifests / f"cuts_{split}.jsonl").read_text().splitlines()
        return {record["id"]: record for record in map(json.loads, lines)}

    def ids(self) -> dict[str, set[str]]:
        """The ids of every split."""
        splits = (path.stem.removeprefix("cuts_") for path in self.manifests.glob("cuts_*.jsonl"))
        return {split: set(self.cuts(split)) for split in splits}

    def labels_of(self, split: str) -> dict[str, list[str]]:
        """The names of the labels of each clip."""
        with (self.manifests / "labels.csv").open(newline="", encoding="utf-8") as file:
            names = [row["display_name"] for row in csv.DictReader(file)]
        return {
            clip: [names[int(i)] for i in cut["supervisions"][0]["custom"]["audio_event"].split(";") if i]
            for clip, cut in self.cuts(split).items()
        }

    def skipped(self, split: str) -> dict[str, str]:
        """Reasons by id."""
        with (self.manifests / f"skipped_{split}.csv").open(newline="", encoding="utf-8") as file:
            return {row["id"]: row["reason"] for row in csv.DictReader(file)}

    def notes(self) -> dict:
        """What coverage.json notes about the corpus."""
        return json.loads((self.manifests / "coverage.json").read_text())["notes"]
