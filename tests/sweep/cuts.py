"""A good manifest of some cuts, and what comes out of a manifest by way of its index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from audiotag.data.index import IndexedManifest

LABELS = ("3;0;4", "", "7", "1;1", "12;5")
UNLABELLED = {0: "2;11", 2: "1;1", 4: "2;11"}
IDS = ("-abc_def-12", "__x", "ünïcode é", "d" * 40, "e")


def cut(number: int, **changes) -> dict:
    """A cut as stage 1 writes it, of a file that is not there."""
    clip_id, duration = IDS[number], 0.75 + number
    unlabelled = {"unlabelled": UNLABELLED[number]} if number in UNLABELLED else {}
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
                "custom": {"audio_event": LABELS[number], **unlabelled},
            }
        ],
        "recording": {
            "id": clip_id,
            "sources": [{"type": "file", "channels": [0], "source": f"/nowhere/{number}.wav"}],
            "sampling_rate": 16000,
            "num_samples": round(duration * 16000),
            "duration": duration,
            "channel_ids": [0],
        },
        "type": "MonoCut",
        **changes,
    }


LINES = [json.dumps(cut(number)).encode() for number in range(len(IDS))]
GOOD = b"\n".join(LINES) + b"\n"


def columns(path: Path) -> list[tuple]:
    """Id, duration, labels, record and unlabelled classes of each cut.

    What columns always promise is checked on the way.
    """
    manifest = IndexedManifest(path)
    ids = [cut_id.decode() for cut_id in manifest.ids()]
    assert ids == [manifest.id(position) for position in range(len(manifest))]
    assert len(set(ids)) == len(ids)
    assert np.isfinite(manifest.durations).all() and (manifest.durations > 0).all()
    assert (manifest.label_ids >= 0).all() and len(manifest.label_starts) == len(manifest) + 1
    return [
        (
            ids[i],
            float(manifest.durations[i]),
            manifest.labels(i).tolist(),
            manifest.record(i),
            manifest.unlabelled(i).tolist(),
        )
        for i in range(len(manifest))
    ]
