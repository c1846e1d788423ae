"""Waveform to log-mel filter bank, batched and on any device: the front ends of three published systems.

Each clip of a padded batch gets the features that it would get alone. The filter bank itself is lhotse's
`Wav2LogFilterBank`; what surrounds it (framing at the edges, mean removal, padding, normalisation) is here.

Shapes: B clips, S samples, T frames, F mel bins.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from lhotse.features.kaldi.layers import Wav2LogFilterBank
from torch import Tensor, nn

from audiotag.errors import ConfigError, DataError

SAMPLING_RATE = 16000
FRAME_LENGTH = 400  # samples, 25 ms
FRAME_SHIFT = 160  # samples, 10 ms
CPU_CLIPS = 2  # clips that the filter bank takes at a time on a CPU
# The floor that acts on every filter: silence has this value.
LOG_FLOOR = math.log(torch.finfo(torch.float32).eps)


@dataclass(frozen=True)
class Preset:
    """What sets one published front end apart from the others."""

    num_mel_bins: int
    window: str
    """lhotse's name of the window: "hanning" is the symmetric Hann window."""
    pad_value: float
    """Written to the frames past a clip's end, before the normalisation."""
    scale: float = 1.0
    """Factor on samples that lie in [-1, 1]."""
    snip_edges: bool = True
    """Frames lie inside the clip; otherwise they are centred and the clip is mirrored at both ends."""
    high_freq: float = 8000.0
    """Upper edge of the highest filter, in Hz."""
    remove_clip_mean: bool = False
    """Subtract the mean of the whole clip."""
    featurize_padding: bool = False
    """Zeros past a clip's end are heard like sound, in place of frames of `pad_value`."""
    mean: float | None = None
    std: float | None = None
    """Features become (x - mean) / (2 std); None leaves them as they are."""
    target_frames: int | None = None
    """Fixed length in frames; None keeps each batch's own."""


PRESETS = {
    "icefall80": Preset(
        num_mel_bins=80, window="povey", pad_value=math.log(1e-10), snip_edges=False, high_freq=7600.0
    ),
    "ast128": Preset(
        num_mel_bins=128,
        window="hanning",
        pad_value=0.0,
        remove_clip_mean=True,
        mean=-4.2677393,
        std=4.5689974,
        target_frames=1024,
    ),
    "beats128": Preset(
        num_mel_bins=128,
        window="povey",
        pad_value=LOG_FLOOR,
        scale=2.0**15,
        featurize_padding=True,
        mean=15.41663,
        std=6.55582,
    ),
}


class Frontend(nn.Module):
    """Log-mel features of a preset, padded, cut and normalised for the encoder.

    Args:
        preset: a key of `PRESETS`.
        target_frames: length of every clip in frames of 10 ms; None takes the preset's.
        mean, std: replace the preset's constants; features become (x - mean) / (2 std).
        normalize: False leaves the values as logarithms of energies.

    It has no parameters and its `state_dict` is empty.
    """

    sampling_rate = SAMPLING_RATE

    def __init__(
        self,
        preset: str,
        target_frames: int | None = None,
        mean: float | None = None,
        std: float | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ConfigError(f"features.preset: no preset {preset!r}; there are {', '.join(PRESETS)}")
        if (mean is None) != (std is None):
            raise ConfigError("features: mean and std must be given together")
        self.preset = PRESETS[preset]
        self.num_mel_bins = self.preset.num_mel_bins
        self.target_frames = self.preset.target_frames if target_frames is None else target_frames
        if mean is None:
            mean, std = self.preset.mean, self.preset.std
        self.mean, self.std = (mean, std) if normalize else (None, None)
        self.frame_multiple = 1
        self.min_frames = 1  # set by the tagger to what its encoder needs
        self.groups_samples = False  # set by the tagger to whether its encoder wants frames counted so
        self.filter_bank = build_filter_bank(self.preset)

    def pad_to_multiple(self, seconds: float | None) -> None:
        """In training, pad batches without a fixed length to a multiple of this from now on, so that the
        encoder meets few lengths, also where augmentation has cut clips; the lengths stay true."""
        self.frame_multiple = max(1, round((seconds or 0.0) * SAMPLING_RATE / FRAME_SHIFT))

    def padded_size(self, longest: int) -> int:
        """Frames that a batch is padded or cut to, by those of its longest clip."""
        if self.target_frames:
            return self.target_frames
        multiple = self.frame_multiple if self.training else 1
        return -(-max(longest, self.min_frames) // multiple) * multiple

    def num_frames(self, num_samples):
        """Frames of a clip of this many samples; for an int or a tensor."""
        if self.preset.snip_edges:
            return (num_samples - FRAME_LENGTH) // FRAME_SHIFT + 1
        return (num_samples + FRAME_SHIFT // 2) // FRAME_SHIFT

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (B,S) with values in [-1, 1] and lengths (B,) in samples to normalised features
        (B,T,F) and their lengths (B,) in frames."""
        raw, frames = self.extract(waveforms, lengths)
        if self.groups_samples:
            # BEATs' original: as many samples for each frame as go evenly; a frame is a clip's if one is.
            group = waveforms.shape[1] // raw.shape[1]
            frames = (-(-lengths.to(frames.device) // group)).clamp(max=raw.shape[1])
        return self._finish(raw, frames, keep_padding=self.preset.featurize_padding)

    @torch.no_grad()
    def extract(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The raw log-mel (B,T,F) of waveforms (B,S) and the number of frames (B,) of each clip.

        Rows past a clip's last frame hold what zeros after its end give (`featurize_padding`) or are
        unspecified. Always computed in float32, whatever autocast says.
        """
        lengths = lengths.to(waveforms.device)
        frames = self.num_frames(lengths)
        self._check(waveforms, lengths, frames)
        device = waveforms.device.type
        with torch.autocast(device, enabled=False), full_float32():
            waveforms = waveforms.float() * self.preset.scale
            if self.preset.remove_clip_mean or self.preset.featurize_padding:
                inside = sequence_mask(lengths, waveforms.shape[1])
                waveforms = waveforms.where(inside, 0.0)
            if self.preset.remove_clip_mean:
                # float64, so that the number of padded zeros does not change how the mean is rounded
                total = waveforms.sum(dim=1, keepdim=True, dtype=torch.float64)
                waveforms = waveforms - (total / lengths[:, None]).float()
            if not self.preset.snip_edges:
                waveforms = mirror_ends(waveforms, lengths)
            if device == "cpu":  # what a few clips need stays in the processor's cache
                parts = [self.filter_bank(part) for part in waveforms.split(CPU_CLIPS)]
                return torch.cat(parts), frames
            return self.filter_bank(waveforms), frames

    @torch.no_grad()
    def finish(self, raw: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Raw log-mel (B,T,F) with `frames` (B,) valid rows each, cut or padded and normalised, and lengths.

        The length becomes `target_frames`, or the largest of `frames` where there is no fixed length. What
        stands in rows past a clip's end does not matter.
        """
        if raw.dim() != 3 or raw.shape[-1] != self.num_mel_bins:
            raise DataError(
                f"expected features (clips, frames, {self.num_mel_bins} mel bins), found {tuple(raw.shape)}: "
                "stored features of another preset must be extracted again (stage 2)"
            )
        return self._finish(raw.float(), frames.to(raw.device), keep_padding=False)

    def _finish(self, raw: Tensor, frames: Tensor, keep_padding: bool) -> tuple[Tensor, Tensor]:
        longest = raw.shape[1] if keep_padding or self.target_frames else int(frames.max())
        size = self.padded_size(longest)
        frames = frames.clamp(max=size)
        features = raw[:, :size]
        least = 1 if self.groups_samples else min(self.min_frames, size)
        inside = sequence_mask(frames, features.shape[1])
        if keep_padding:
            # What is behind a clip that is too short for the encoder counts as a part of it: it must not
            # depend on the other clips of the batch.
            inside = inside | (frames >= least)[:, None]
        features = features.where(inside[:, :, None], self.preset.pad_value)
        missing = size - features.shape[1]
        features = nn.functional.pad(features, (0, 0, 0, missing), value=self.preset.pad_value)
        return self._normalize(features), frames.clamp(min=least)

    def _normalize(self, features: Tensor) -> Tensor:
        if self.mean is None:
            return features
        return (features - self.mean) / (2 * self.std)

    def _check(self, waveforms: Tensor, lengths: Tensor, frames: Tensor) -> None:
        if not waveforms.is_floating_point():
            raise DataError(
                f"samples must be floats in [-1, 1], found {waveforms.dtype}: divide 16-bit integers by 32768"
            )
        if waveforms.dim() != 2 or lengths.shape != waveforms.shape[:1]:
            raise DataError(
                "expected waveforms (clips, samples) and one length per clip, found shapes "
                f"{tuple(waveforms.shape)} and {tuple(lengths.shape)}"
            )
        # One comparison for all clips, so that a GPU is waited for only once.
        if not bool(((frames >= 1) & (lengths <= waveforms.shape[1])).all()):
            shortest, longest = int(lengths.min()), int(lengths.max())
            if longest > waveforms.shape[1]:
                raise DataError(f"a clip's length is {longest} of {waveforms.shape[1]} samples in the batch")
            need = FRAME_LENGTH if self.preset.snip_edges else FRAME_SHIFT // 2
            raise DataError(
                f"clip {int(lengths.argmin())} of the batch has {shortest} samples, too short for one frame: "
                f"at least {need} samples ({1000 * need / SAMPLING_RATE:g} ms) are needed; leave it out or "
                "raise corpus.min_duration_s"
            )


def build_filter_bank(preset: Preset) -> Wav2LogFilterBank:
    """lhotse's filter bank with its constants as non-persistent buffers.

    The edges are handled by `mirror_ends`, so lhotse always sees whole frames ("snip edges"). lhotse holds
    the constants as parameters, which optimisers, DDP and checkpoints would take for weights.
    """
    with warnings.catch_warnings(), torch.device("cpu"):
        warnings.filterwarnings("ignore", message="Setting snip_edges=True", category=UserWarning)
        warnings.filterwarnings("ignore", message="__array_wrap__", category=DeprecationWarning)
        bank = Wav2LogFilterBank(
            sampling_rate=SAMPLING_RATE,
            window_type=preset.window,
            snip_edges=True,
            high_freq=preset.high_freq,
            num_filters=preset.num_mel_bins,
        )
    for module in bank.modules():
        for name, constant in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, constant.detach(), persistent=False)
    return bank


def mirror_ends(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Waveforms (B,S) extended to (B, 120+S+200) for centred frames, each clip mirrored at its own ends.

    Position p of the result is sample p - 120 of a signal that is reflected at both ends, again and again
    where a clip is shorter than what is missing.
    """
    left = (FRAME_LENGTH - FRAME_SHIFT) // 2
    right = FRAME_LENGTH // 2  # the last of (n+80)//160 frames ends at most this far behind sample n
    lengths = lengths[:, None]

    def reflected(position: Tensor) -> Tensor:
        position = position % (2 * lengths)
        return waveforms.gather(1, torch.minimum(position, 2 * lengths - 1 - position))

    before = torch.arange(-left, 0, device=waveforms.device)
    behind = lengths + torch.arange(right, device=waveforms.device)
    extended = torch.cat([reflected(before), nn.functional.pad(waveforms, (0, right))], dim=1)
    return extended.scatter(1, left + behind, reflected(behind))


def sequence_mask(lengths: Tensor, size: int) -> Tensor:
    """(B, size) booleans: True inside the first `lengths` positions of each row."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Matrix products in whole float32: TF32 would move log-mel values by up to 5e-4."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
