"""Mix noise recordings into clips at a random signal-to-noise ratio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio, load_features
from audiotag.data.replacing import MAX_TRIES, Replaced, first_readable

ENERGY_FLOOR = 1e-10


def noise_path(data_dir: Path, preset: str) -> Path:
    """The manifest of noise cuts that stage 3 makes."""
    return data_dir / "noise" / preset / "cuts_noise.jsonl"


@dataclass(frozen=True)
class NoiseMixer:
    """Adds noise to some of the clips, by chance.

    Args:
        manifest: the noise cuts that stage 3 prepared, stored the way the clips are.
        probability: chance that a clip gets noise.
        snr_db: range of the signal-to-noise ratio, drawn uniformly.
    """

    manifest: IndexedManifest
    probability: float
    snr_db: tuple[float, float]

    def __call__(
        self, clip: np.ndarray, rng: np.random.Generator, *, stored: bool, replaced: Replaced
    ) -> np.ndarray:
        """The clip, samples (S,) or stored log-mel (T,F), with noise or as it is.

        Noise that cannot be read is noted in `replaced`, and other noise taken.
        """
        if rng.random() >= self.probability:
            return clip
        snr_db = rng.uniform(*self.snr_db)
        noise = self._draw(len(clip), rng, stored, replaced)
        return mix_log_mel(clip, noise, snr_db) if stored else mix_waveforms(clip, noise, snr_db)

    def _draw(self, length: int, rng: np.random.Generator, stored: bool, replaced: Replaced) -> np.ndarray:
        """Noise as long as the clip: random cuts, one after the other."""

        def load(position: int) -> np.ndarray:
            record = self.manifest.record(position)
            return load_features(record) if stored else load_audio(record)

        pieces, missing = [], length
        while missing > 0:
            positions = (int(rng.integers(len(self.manifest))) for _ in range(1 + MAX_TRIES))
            _, piece = first_readable(positions, load, replaced)
            pieces.append(piece[:missing])
            missing -= len(pieces[-1])
        return np.concatenate(pieces)


def mix_waveforms(clip: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Samples (S,) of clip plus noise, the noise scaled to the ratio of their energies."""
    clip_energy = np.sum(clip.astype(np.float64) ** 2)
    noise_energy = np.sum(noise.astype(np.float64) ** 2)
    if clip_energy == 0 or noise_energy == 0:
        return clip
    gain = np.sqrt(10.0 ** (-snr_db / 10) * clip_energy / noise_energy)
    return (clip + gain * noise).astype(np.float32)


def mix_log_mel(clip: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Log-mel (T,F) of clip plus noise, added as energies of the mel filters."""
    clip_energies, noise_energies = np.exp(clip.astype(np.float64)), np.exp(noise.astype(np.float64))
    gain = 10.0 ** (-snr_db / 10) * clip_energies.sum() / noise_energies.sum()
    return np.log(np.maximum(ENERGY_FLOOR, clip_energies + gain * noise_energies)).astype(np.float32)
