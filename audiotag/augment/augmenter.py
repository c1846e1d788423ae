"""Augmentation of whole batches on the model's device: from a loader's batch to what the model takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from audiotag.augment.choices import Choices
from audiotag.augment.clips import Clips, read_batch, to_features
from audiotag.augment.length import RandomLength, Repeat
from audiotag.augment.loudness import Gain
from audiotag.augment.masks import AstMasks, BeatsMasks, ZipformerMasks
from audiotag.augment.mixup import Mixup
from audiotag.augment.noise import FeatureNoise, WhiteNoise
from audiotag.augment.roll import FeatureRoll, Roll
from audiotag.augment.timewarp import TimeWarp
from audiotag.frontend import Frontend

Step = Callable[[Clips, Choices], Clips]

# The entries of the configuration in the order in which they act. Those with variants carry the variant's
# name too.
ON_INPUTS: dict[str, Callable[..., Step]] = {
    "mixup_waveform": Mixup,
    "random_length": RandomLength,
    "repeat": Repeat,
    "roll": Roll,
    "gain": Gain,
    "white_noise": WhiteNoise,
}
ON_FEATURES: dict[str, Callable[..., Step]] = {
    # AST masks before the normalisation, hence before normalised features are mixed.
    "masks_ast": AstMasks,
    "mixup_features": Mixup,
    "time_warp": TimeWarp,
    "masks_zipformer": ZipformerMasks,
    "masks_beats": BeatsMasks,
    "feature_noise": FeatureNoise,
    "feature_roll": FeatureRoll,
}
VARIANT_KEYS = {"mixup": "on", "masks": "name"}


class Augmenter:
    """Turns a training batch into features, lengths and targets, changed by chance.

    Each clip of each batch is changed in a way that depends on the key of the batch alone.

    Args:
        on_inputs: what changes waveforms or stored features, by name, in order.
        on_features: what changes finished features, likewise.
    """

    def __init__(self, on_inputs: Mapping[str, Step], on_features: Mapping[str, Step]) -> None:
        self.on_inputs = on_inputs
        self.on_features = on_features

    @torch.no_grad()
    def __call__(
        self, batch: dict[str, Any], frontend: Frontend, device: torch.device, rng_key: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B,T,F), their lengths (B,) and soft targets (B,C), all on the device.

        Args:
            batch: as a loader yields it.
            frontend: makes the features; on the device.
            device: where everything is computed.
            rng_key: every choice derives from it: (seed, epoch, name of the batch).
        """
        return self.change_features(self.change_inputs(batch, frontend, device, rng_key), rng_key)

    @torch.no_grad()
    def change_inputs(
        self, batch: dict[str, Any], frontend: Frontend, device: torch.device, rng_key: tuple[int, ...]
    ) -> Clips:
        """The waveforms or stored features of a batch as the front end gets them."""
        return apply(self.on_inputs, read_batch(batch, frontend, device), rng_key)

    @torch.no_grad()
    def change_features(self, clips: Clips, rng_key: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """What `__call__` gives, from waveforms or stored features that have been changed already."""
        frontend = clips.frontend
        clips = apply(self.on_features, to_features(clips), rng_key)
        # Mixtures may have become shorter.
        features = clips.resized(frontend.padded_size(clips.size))
        return features, clips.tensor(clips.lengths), clips.targets


def apply(steps: Mapping[str, Step], clips: Clips, rng_key: tuple[int, ...]) -> Clips:
    """One step after the other, each with choices of its own."""
    for name, step in steps.items():
        clips = step(clips, Choices(rng_key, name))
    return clips


def build_augmenter(augment: Mapping[str, Any]) -> Augmenter | None:
    """The augmenter of a configuration's `augment` section; None when nothing in it acts on batches.

    `crop` and `noise` are the loader's.
    """
    settings: dict[str, dict[str, Any]] = {}
    for name, entry in augment.items():
        if entry is not None:
            values = dict(entry)
            variant = [values.pop(VARIANT_KEYS[name])] if name in VARIANT_KEYS else []
            settings["_".join([name, *variant])] = values
    on_inputs, on_features = (
        {name: kind(**settings[name]) for name, kind in kinds.items() if name in settings}
        for kinds in (ON_INPUTS, ON_FEATURES)
    )
    return Augmenter(on_inputs, on_features) if on_inputs or on_features else None
