"""Cut manifests made by lhotse itself, in the layout of icefall's AudioSet recipe."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, Fbank, FbankConfig, LilcomChunkyWriter, MonoCut, Recording, SupervisionSegment

from audiotag.configcorpus import CutsCorpus
from audiotag.corpora.cuts import prepare_cuts

CLASSES = 6
NAMES = {"train": "data/fbank/cuts_audioset_full.jsonl.gz", "eval": "data/fbank/cuts_audioset_eval.jsonl.gz"}
SETTINGS = {
    "train_cuts": [NAMES["train"]],
    "eval_cuts": [NAMES["eval"]],
    "labels": "downloads/audioset/class_labels_indices.csv",
    "valid_share": 0.25,
    "max_skip": 1.0,
}


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, as recipes do (`contextlib.chdir` needs Python 3.11)."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Recipe:
    """A folder like that of icefall's recipe: paths inside of the manifests are relative to it."""

    def __init__(self, root: Path, clips: int = 30) -> None:
        self.root = root / "AT"
        self.manifests = root / "data" / "manifests"
        for name in ("downloads/audioset/audio", "data/fbank"):
            (self.root / name).mkdir(parents=True)
        with (self.root / SETTINGS["labels"]).open("w", newline="") as file:
            rows = [["index", "mid", "display_name"]]
            csv.writer(file).writerows([*rows, *([k, f"/m/{k}", f"class {k}"] for k in range(CLASSES))])
        self.cuts = {
            "train": [self.cut(f"-a_{number:02d}_bcdef", number) for number in range(clips)],
            "eval": [self.cut(f"_e{number:02d}_bcdefg", 100 + number) for number in range(8)],
        }

    def cut(self, clip_id: str, seed: int, rate: int = 16000) -> MonoCut:
        """A cut over a wav file of its own, with one or two classes."""
        path = Path("downloads/audioset/audio") / f"{clip_id}.wav"
        samples = 0.1 * np.random.default_rng(seed).standard_normal(rate * (10 + seed % 7) // 10)
        soundfile.write(self.root / path, samples.astype(np.float32), rate)
        with inside(self.root):
            recording = Recording.from_file(path, recording_id=clip_id)
        supervision = SupervisionSegment(clip_id, clip_id, start=0.0, duration=recording.duration, channel=0)
        supervision.audio_event = ";".join(str((seed + k) % CLASSES) for k in range(1 + seed % 2))
        return MonoCut(clip_id, 0.0, recording.duration, 0, recording=recording, supervisions=[supervision])

    def write(self, *, with_features: bool = False) -> None:
        """Write the manifests, and the features that lhotse computes."""
        extractor = Fbank(FbankConfig(num_mel_bins=80))
        with inside(self.root):
            for split, cuts in self.cuts.items():
                cut_set = CutSet.from_cuts(cuts)
                if with_features:
                    folder = f"data/fbank/{split}_feats"
                    cut_set = cut_set.compute_and_store_features(
                        extractor, folder, storage_type=LilcomChunkyWriter, progress_bar=False
                    )
                cut_set.to_file(NAMES[split])

    def prepare(self, **options) -> None:
        """Run stage 1."""
        prepare_cuts(self.manifests, CutsCorpus(dir=str(self.root), **{**SETTINGS, **options}))

    def made(self, split: str) -> dict[str, dict]:
        """The cuts that stage 1 wrote, by id."""
        lines = (self.manifests / f"cuts_{split}.jsonl").read_text().splitlines()
        return {record["id"]: record for record in map(json.loads, lines)}

    def skipped(self, split: str) -> dict[str, str]:
        """Reasons by id."""
        with (self.manifests / f"skipped_{split}.csv").open(newline="") as file:
            return {row["id"]: row["reason"] for row in csv.DictReader(file)}

    def audio(self, clip_id: str) -> Path:
        """The file of a clip."""
        return self.root / "downloads/audioset/audio" / f"{clip_id}.wav"

    def remove_all_audio(self) -> None:
        """Leave features alone."""
        for path in self.audio("x").parent.iterdir():
            path.unlink()
