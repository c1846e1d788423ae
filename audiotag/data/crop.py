"""Read a clip, or of a long one only a stretch: at a random place, or a window at a given one.

Nothing outside of the stretch is decoded: audio files are read from its first sample on, stored features from
the chunk that holds its first frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from audiotag.data.chance import Chance
from audiotag.data.loading import Record, load_audio, load_features

# The index holds durations as float32, and nothing is gained by leaving out a few samples.
TOLERANCE_S = 1e-3

# (samples or frames that there are, how many are wanted, how many of them a second has) to those to read.
Place = Callable[[int, int, float], slice]


def load_stretch(
    record: Record, *, stored: bool, longest_s: float | None, chance: Chance | None
) -> np.ndarray:
    """Samples (S,) at 16 kHz or stored log-mel (T,F) of a clip, at most `longest_s` seconds of it.

    Args:
        record: a cut as its manifest line holds it.
        stored: read features in place of audio.
        longest_s: longest stretch; None reads the whole clip.
        chance: where the stretch begins, each place as likely as the other.
    """
    if longest_s is None or record["duration"] <= longest_s + TOLERANCE_S:
        return load_features(record) if stored else load_audio(record)
    load = load_feature_stretch if stored else load_audio_stretch
    return load(record, longest_s, lambda available, wanted, _: random_span(available, wanted, chance.rng))


def load_window(record: Record, *, stored: bool, window_s: float, start_s: float) -> np.ndarray:
    """Samples (S,) at 16 kHz or stored log-mel (T,F) of one window of a clip, which may be shorter than it.

    Args:
        record: a cut as its manifest line holds it.
        stored: read features in place of audio.
        window_s: length of the window.
        start_s: where in the clip it begins; one that would reach past the clip's end is moved so that both
            end together, which infinity always does.
    """

    def place(available: int, wanted: int, per_second: float) -> slice:
        latest = max(0, available - wanted)
        start = latest if math.isinf(start_s) else min(round(start_s * per_second), latest)
        return slice(start, min(start + wanted, available))

    load = load_feature_stretch if stored else load_audio_stretch
    return load(record, window_s, place)


def load_audio_stretch(record: Record, longest_s: float, place: Place) -> np.ndarray:
    """A stretch of a clip's audio; it begins and ends at whole samples of the file's own rate."""
    recording = record.get("recording")
    if recording is None:
        return load_audio(record)  # it has words for this
    rate = recording["sampling_rate"]
    first = round(record["start"] * rate)
    available = min(round(record["duration"] * rate), recording["num_samples"] - first)
    span = place(available, round(longest_s * rate), rate)
    start, duration = (first + span.start) / rate, (span.stop - span.start) / rate
    return load_audio({**record, "start": start, "duration": duration})


def load_feature_stretch(record: Record, longest_s: float, place: Place) -> np.ndarray:
    """A stretch of a clip's stored features: as many frames as there are of audio of that length."""
    stored = record.get("features")
    if stored is None or stored["duration"] != record["duration"] or stored["start"] != record["start"]:
        features = load_features(record)
        per_second = len(features) / record["duration"]
        return features[place(len(features), max(1, round(per_second * longest_s)), per_second)]
    shift = stored["frame_shift"]
    # Where frames lie inside the clip, it has two fewer of them than frame shifts.
    at_edges = max(0, round(stored["duration"] / shift - stored["num_frames"]))
    wanted = int((longest_s + TOLERANCE_S) / shift) - at_edges
    span = place(stored["num_frames"], max(1, wanted), 1 / shift)
    return load_features(record, frames=(span.start, span.stop))


def random_span(available: int, wanted: int, rng: np.random.Generator) -> slice:
    """`wanted` of `available` places in a row, from a random one on; all where there are no more."""
    start = int(rng.integers(max(0, available - wanted) + 1))
    return slice(start, min(start + wanted, available))
