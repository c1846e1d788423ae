"""A tiny model in every form in which one is stored, and sound files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from audiotag.export.package import export_package
from tests.tiny import tiny_config, tiny_labels, tiny_tagger


def tiny_package(folder: Path, loss: str = "bce", seed: int = 0) -> Path:
    """An exported folder of a tiny AST for inputs of 64 frames, whose scores differ from file to file."""
    tagger = tiny_tagger(seed)
    tagger.head.weight.data *= 4.0
    config = {**tiny_config(), "loss": {"name": loss}}
    export_package(folder, weights=tagger.state_dict(), config=config, labels=tiny_labels(), info={})
    return folder


def noise(num_samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Noise (S,C) that grows louder and has tones, so that no two stretches sound the same."""
    rng = np.random.default_rng(seed)
    time = np.arange(num_samples)[:, None] / 16000
    tone = np.sin(2 * np.pi * (300 + 200 * seed + 50 * time) * time)
    samples = 0.2 * rng.standard_normal((num_samples, channels)) * (1 + np.sin(3 * time)) + 0.3 * tone
    return np.clip(samples, -0.95, 0.95).astype(np.float32)


def write(path: Path, seconds: float, rate: int = 16000, channels: int = 1, seed: int = 0) -> Path:
    """A sound file of a format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(round(seconds * rate), channels, seed), rate)
    return path
