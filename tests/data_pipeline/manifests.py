"""Small manifests for tests: cuts without files, and cuts of real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from audiotag.data.index import IndexedManifest


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


def check_manifest(manifest: IndexedManifest, records: list[dict]) -> None:
    """Assert that an indexed manifest has these cuts and nothing else."""
    assert len(manifest) == len(records)
    assert [manifest.id(i) for i in range(len(manifest))] == [cut["id"] for cut in records]
    assert [cut_id.decode() for cut_id in manifest.ids()] == [cut["id"] for cut in records]
    np.testing.assert_allclose(manifest.durations, [cut["duration"] for cut in records], rtol=1e-6)
    label_ids, starts = manifest.label_ids, manifest.label_starts
    for i, cut in enumerate(records):
        events = cut["supervisions"][0]["custom"]["audio_event"]
        expected = [int(label) for label in events.split(";")] if events else []
        assert manifest.labels(i).tolist() == label_ids[starts[i] : starts[i + 1]].tolist() == expected
        assert manifest.record(i) == cut
