"""Small manifests for tests: cuts without files, and cuts of real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile


def record(
    clip_id: str, duration: float = 1.0, labels: str = "0", path: str = "/nowhere.wav", rate: int = 16000
):
    """A cut as stage 1 writes it."""
    return {
        "id": clip_id,
        "start": 0.0,
        "duration": duration,
        "channel": 0,
        "supervisions": [
            {
                "id": clip_id,
                "recording_id": clip_id,
                "start": 0.0,
                "duration": duration,
                "channel": 0,
                "custom": {"audio_event": labels},
            }
        ],
        "recording": {
            "id": clip_id,
            "sources": [{"type": "file", "channels": [0], "source": path}],
            "sampling_rate": rate,
            "num_samples": round(duration * rate),
            "duration": duration,
            "channel_ids": [0],
        },
        "type": "MonoCut",
    }


def write_manifest(path: Path, records: list[dict]) -> Path:
    """Write cuts as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(cut) + "\n" for cut in records))
    return path


def noise_clips(folder: Path, count: int, num_classes: int = 5) -> Path:
    """A manifest of `count` wavs of different lengths, each with noise of its own."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(count):
        num_samples = 3200 + 80 * number
        samples = 0.1 * rng.standard_normal(num_samples)
        path = folder / f"{number}.wav"
        soundfile.write(path, samples, 16000)
        labels = ";".join(map(str, rng.choice(num_classes, size=number % 3, replace=False)))
        records.append(record(f"-clip_{number}", num_samples / 16000, labels, str(path)))
    return write_manifest(folder / "cuts.jsonl", records)
