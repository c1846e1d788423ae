"""Small corpora in the layouts of ESC-50 and Speech Commands, and what stage 1 makes of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import soundfile

HEADER = "filename,fold,target,category,esc10,src_file,take"


def write_sound(
    path: Path, pitch_hz: float, rate: int = 16000, seconds: float = 0.5, channels: int = 1
) -> Path:
    """A tone with noise that is like no other file's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(path.name + path.parent.name).encode()))
    times = np.arange(round(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * pitch_hz * times)[:, None]
    soundfile.write(path, tone + 0.01 * rng.standard_normal((len(times), channels)), rate)
    return path


def make_esc50(root: Path, categories: int = 4, sources: int = 2, takes: int = 2, **sound) -> Path:
    """ESC-50's layout: of each class in each of five folds some sources, and of each source some takes.

    The targets are not those of the alphabet, and the first two classes are ESC-10's.
    """
    rows = []
    for fold in range(1, 6):
        for target in range(categories):
            for source in range(sources):
                number = 1000 * fold + 10 * target + source
                for take in "ABCDEFG"[:takes]:
                    name = f"{fold}-{number}-{take}-{target}.wav"
                    write_sound(root / "audio" / name, 300.0 * 2**target, **sound)
                    category = f"{'zyxwvuts'[target]}_sound"
                    rows.append(f"{name},{fold},{target},{category},{target < 2},{number},{take}")
    (root / "meta").mkdir()
    (root / "meta" / "esc50.csv").write_text("\n".join([HEADER, *sorted(rows)]) + "\n")
    return root


def make_speechcommands(root: Path, words: tuple[str, ...] = ("yes", "no", "up"), speakers: int = 10) -> Path:
    """Speech Commands' layout: each speaker says each word twice, in files of the same names."""
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for speaker in range(speakers):
        for place, word in enumerate(words):
            for take in range(2):
                name = f"{speaker:08x}_nohash_{take}.wav"
                write_sound(root / word / name, 300.0 * 2**place)
                if speaker < 2:
                    lists[list(lists)[speaker]].append(f"{word}/{name}")
    write_sound(root / "_background_noise_" / "white noise.wav", 100.0, seconds=2.0)
    (root / "README.md").write_text("about the corpus")
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n")
    return root


class Manifests:
    """What stage 1 left in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def cuts(self, split: str) -> dict[str, dict]:
        """The cuts of a split by id."""
        lines = (self.folder / f"cuts_{split}.jsonl").read_text().splitlines()
        return {record["id"]: record for record in map(json.loads, lines)}

    def labels(self, split: str) -> dict[str, str]:
        """The name of the label of each clip."""
        names = self.classes()
        return {
            clip: names[int(cut["supervisions"][0]["custom"]["audio_event"])]
            for clip, cut in self.cuts(split).items()
        }

    def classes(self) -> list[str]:
        """The names of the classes in the order of their indices."""
        with (self.folder / "labels.csv").open(newline="") as file:
            return [row["display_name"] for row in csv.DictReader(file)]

    def skipped(self, split: str) -> dict[str, str]:
        """Reasons by id."""
        with (self.folder / f"skipped_{split}.csv").open(newline="") as file:
            return {row["id"]: row["reason"] for row in csv.DictReader(file)}

    def coverage(self) -> dict:
        """What coverage.json says."""
        return json.loads((self.folder / "coverage.json").read_text())
