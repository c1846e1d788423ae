"""A manifest of any size that looks like AudioSet's, without its audio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from audiotag.atomic import atomic_write

SEED = 527
NUM_CLASSES = 527
CHUNK = 50_000
SAMPLING_RATE = 16000
ID_LETTERS = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_", np.uint8)
ID_LENGTH = 11
# AudioSet: most clips have 10 s, the rest what the video had left; one to three labels are the rule.
SHARE_OF_WHOLE_CLIPS = 0.93
LABELS_OF_A_CLIP = (0.45, 0.35, 0.2)
FOLDER = "/corpora/audioset/audio/unbalanced_train_segments"
LINE = (
    '{{"id": "{id}", "start": 0.0, "duration": {seconds}, "channel": 0, "supervisions": [{{"id": "{id}", '
    '"recording_id": "{id}", "start": 0.0, "duration": {seconds}, "channel": 0, "custom": {{"audio_event": '
    '"{labels}"}}}}], "recording": {{"id": "{id}", "sources": [{{"type": "file", "channels": [0], "source": '
    '"{folder}/{id}.flac"}}], "sampling_rate": 16000, "num_samples": {samples}, "duration": {seconds}, '
    '"channel_ids": [0]}}, "type": "MonoCut"}}\n'
)


def generated_manifest(folder: Path, num_cuts: int) -> Path:
    """The manifest of so many cuts in a folder, the same in every run; written if it is not there yet."""
    path = folder / f"cuts_{num_cuts}.jsonl"
    if not path.is_file():
        with atomic_write(path) as file:
            file.writelines(generate_lines(num_cuts))
    return path


def first_cuts(path: Path, num_cuts: int) -> Path:
    """A manifest of the first cuts of another."""
    shorter = path.with_name(f"{path.stem}_first_{num_cuts}.jsonl")
    if not shorter.is_file():
        with path.open(encoding="utf-8") as lines, atomic_write(shorter) as file:
            file.writelines(line for _, line in zip(range(num_cuts), lines, strict=False))
    return shorter


def generate_lines(num_cuts: int) -> Iterator[str]:
    """Cuts as stage 1 writes them: ids of 11 letters, skewed label frequencies, durations of up to 10 s."""
    rng = np.random.default_rng(SEED)
    # The most frequent class is in every third clip, the rarest in one of ten thousand.
    frequencies = 1.0 / np.arange(2, NUM_CLASSES + 2) ** 1.5
    frequencies /= frequencies.sum()
    for start in range(0, num_cuts, CHUNK):
        count = min(CHUNK, num_cuts - start)
        letters = ID_LETTERS[rng.integers(len(ID_LETTERS), size=(count, ID_LENGTH))]
        ids = letters.view(f"S{ID_LENGTH}")[:, 0].astype(str).tolist()
        whole = rng.random(count) < SHARE_OF_WHOLE_CLIPS
        samples = np.where(whole, 160_000, rng.integers(8_000, 160_000, size=count)).tolist()
        numbers = rng.choice(NUM_CLASSES, size=(count, 3), p=frequencies).tolist()
        labels = (1 + rng.choice(3, size=count, p=LABELS_OF_A_CLIP)).tolist()
        for cut_id, length, drawn, wanted in zip(ids, samples, numbers, labels, strict=True):
            yield LINE.format(
                id=cut_id,
                seconds=length / SAMPLING_RATE,
                samples=length,
                labels=";".join(map(str, dict.fromkeys(drawn[:wanted]))),
                folder=FOLDER,
            )
