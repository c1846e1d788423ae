"""The three LayerNorm eps of an AST, in which published formats differ, and what another choice changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from audiotag.export.package import TrainedModel
from audiotag.frontend import FRAME_LENGTH, FRAME_SHIFT, SAMPLING_RATE
from audiotag.tagger import Tagger

# Loudness of the test clips: LayerNorm eps act on small values.
GAINS = (0.5, 0.05, 0.002)


@dataclass(frozen=True)
class Epsilons:
    """Those of the LayerNorms in the blocks, after the last block, and before the linear head."""

    block: float
    final: float
    head: float

    @classmethod
    def of(cls, encoder: Mapping[str, Any]) -> Epsilons:
        """Those of an `encoder` section."""
        return cls(encoder["block_norm_eps"], encoder["final_norm_eps"], encoder["head_norm_eps"])

    def settings(self) -> dict[str, float]:
        """The settings of an `encoder` section."""
        return {"block_norm_eps": self.block, "final_norm_eps": self.final, "head_norm_eps": self.head}

    def give_to(self, tagger: Tagger) -> None:
        """Make them those of a tagger with an AST."""
        for module in tagger.encoder.blocks.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = self.block
        tagger.encoder.norm.eps = self.final
        tagger.head_norm.eps = self.head

    def __str__(self) -> str:
        return f"{self.block:g} / {self.final:g} / {self.head:g}"


@dataclass(frozen=True)
class Difference:
    """The largest differences on the test clips, of logits and of probabilities."""

    logits: float
    probabilities: float

    def in_words(self) -> str:
        """One part of a sentence."""
        return (
            f"on {len(GAINS)} generated test clips logits differ by up to {self.logits:.1e}, probabilities "
            f"by up to {self.probabilities:.1e}"
        )


@torch.no_grad()
def measure_other_epsilons(model: TrainedModel, others: Epsilons) -> Difference:
    """How far a model's outputs move on test clips when its eps become others; the model stays as it is."""
    changed = copy.deepcopy(model.tagger)
    others.give_to(changed)
    features, lengths = model.tagger.frontend(*sample_clips(model.tagger.frontend.target_frames))
    before, after = (tagger.from_features(features, lengths) for tagger in (model.tagger, changed))
    as_probabilities = torch.sigmoid if model.loss != "ce" else lambda logits: logits.softmax(dim=-1)
    return Difference(
        float((before - after).abs().max()),
        float((as_probabilities(before) - as_probabilities(after)).abs().max()),
    )


def sample_clips(frames: int) -> tuple[Tensor, Tensor]:
    """Waveforms (B,S) of a rising tone in noise, loud to soft, and their lengths."""
    num_samples = FRAME_LENGTH + (frames - 1) * FRAME_SHIFT
    time = torch.arange(num_samples, dtype=torch.float64) / SAMPLING_RATE
    rising = torch.sin(2 * torch.pi * (200 * time + 1500 * time.square() / max(1.0, float(time[-1]))))
    noise = torch.randn(num_samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clip = (0.7 * rising + 0.1 * noise).float()
    waveforms = torch.stack([gain * clip for gain in GAINS])
    return waveforms, torch.full((len(GAINS),), num_samples)
