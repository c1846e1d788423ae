"""Feature matrices that others have stored: what a lhotse manifest says of one, and what is really there."""

from __future__ import annotations

import hashlib
import sys
from typing import Any, NamedTuple

from audiotag.corpora.probe import SOUND_BYTES, Probe

# What the preset icefall80 computes. The names are those of lhotse's `Fbank`, of the same by torchaudio, and
# of what stage 2 writes.
NUM_BINS, FRAME_SHIFT_S, SAMPLING_RATE = 80, 0.01, 16000
EXTRACTORS = ("kaldi-fbank", "fbank", "icefall80")
# Features that cover so much more or less than a cut are those of the whole cut.
TOLERANCE_S = 1e-3


class Matrix(NamedTuple):
    """A stored matrix of log-mel features.

    Args:
        path, key, storage: where it is: lhotse's storage path, key and type.
        num_frames, num_bins: its shape.
        start_s, duration_s: the part of the recording that it describes.
        extractor: lhotse's name of what computed it.
    """

    path: str
    key: str
    storage: str
    num_frames: int
    num_bins: int
    start_s: float
    duration_s: float
    extractor: str

    def manifest(self, recording_id: str, start_s: float, duration_s: float) -> dict[str, Any]:
        """The features of a cut as its line in a manifest has them; times are the cut's where they agree."""
        whole = max(abs(self.start_s - start_s), abs(self.duration_s - duration_s)) < TOLERANCE_S
        return {
            "type": self.extractor,
            "num_frames": self.num_frames,
            "num_features": self.num_bins,
            "frame_shift": FRAME_SHIFT_S,
            "sampling_rate": SAMPLING_RATE,
            "start": start_s if whole else self.start_s,
            "duration": duration_s if whole else self.duration_s,
            "storage_type": self.storage,
            "storage_path": self.path,
            "storage_key": self.key,
            "recording_id": recording_id,
            "channels": 0,
        }


def read_entry(features: dict[str, Any], path: str) -> Matrix | str:
    """The matrix that a cut's `features` name, or why it cannot be used.

    Args:
        features: of a manifest's line.
        path: its storage path, absolute.
    """
    found = (features["num_features"], features["frame_shift"], features["sampling_rate"])
    if found != (NUM_BINS, FRAME_SHIFT_S, SAMPLING_RATE) or features["type"] not in EXTRACTORS:
        return (
            f"other features: {features['type']} with {found[0]} bins every {found[1]} s at {found[2]} Hz, "
            f"where icefall80 is kaldi-fbank with {NUM_BINS} every {FRAME_SHIFT_S} s at {SAMPLING_RATE} Hz"
        )
    return Matrix(
        # Millions of cuts share these few texts.
        sys.intern(path),
        features["storage_key"],
        sys.intern(features["storage_type"]),
        int(features["num_frames"]),
        NUM_BINS,
        float(features["start"]),
        float(features["duration"]),
        sys.intern(features["type"]),
    )


def probe_matrix(matrix: Matrix) -> Probe:
    """Read a matrix to its end; whatever goes wrong is the probe's problem."""
    # Not at the top: the import takes longer than preparing a small corpus.
    import numpy as np
    from lhotse import Features

    from audiotag.data.featurefile import read_matrix

    features = Features.from_dict(matrix.manifest("", matrix.start_s, matrix.duration_s))
    try:
        values = read_matrix(features, 0, matrix.num_frames)
    except FileNotFoundError:
        return Probe(problem=f"missing: no file of features {matrix.path}")
    except Exception as error:  # each way of storing has errors of its own
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Probe(problem=f"unreadable: features in {matrix.path}: {' '.join(text.split())}")
    if values.shape != (matrix.num_frames, matrix.num_bins):
        promised = f"{matrix.num_frames} frames of {matrix.num_bins} bins"
        return Probe(problem=f"truncated: the manifest promises {promised}, {values.shape} are there")
    if not np.isfinite(values).all():
        return Probe(problem=f"not finite: features in {matrix.path} are NaN or infinite")
    digest = hashlib.blake2b(np.ascontiguousarray(values, dtype=np.float32), digest_size=SOUND_BYTES)
    return Probe(matrix.num_frames, round(1 / FRAME_SHIFT_S), 1, sound=digest.hexdigest())
