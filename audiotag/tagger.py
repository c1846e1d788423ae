"""The tagger: front end, encoder, masked mean and a linear head, from waveforms or features to logits.

Shapes: B clips, S samples, T frames, F mel bins, S' embeddings, D width, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from audiotag.encoders.registry import build_encoder, encoder_settings
from audiotag.errors import ConfigError, DataError
from audiotag.frontend import Frontend, sequence_mask
from audiotag.labels import LabelTable


class Tagger(nn.Module):
    """Sound-class logits of clips.

    Args:
        frontend: waveforms to features; has no weights.
        encoder: features (B,T,F) and lengths to embeddings (B,S',D) and lengths.
        labels: the classes, in the order of the logits.
        head_norm_eps: eps of a LayerNorm before the linear head; None has no LayerNorm.
    """

    def __init__(
        self, frontend: Frontend, encoder: nn.Module, labels: LabelTable, head_norm_eps: float | None
    ) -> None:
        super().__init__()
        self.labels = labels
        self.frontend = frontend
        self.encoder = encoder
        # A clip that is too short for the encoder counts as one that ends in silence.
        frontend.min_frames = getattr(encoder, "min_frames", 1)
        frontend.groups_samples = getattr(encoder, "groups_samples", False)
        dim = encoder.output_dim
        self.head_norm = nn.Identity() if head_norm_eps is None else nn.LayerNorm(dim, eps=head_norm_eps)
        self.head = nn.Linear(dim, len(labels))

    def forward(
        self, x: Tensor, lengths: Tensor | None, frames: bool = False, pooled: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Waveforms (B,S) with lengths (B,) in samples, or finished features (B,T,F) with lengths in
        frames, to logits (B,C); `frames=True` gives those of every embedding, (B,S',C), `pooled=True` also
        the mean embedding of each clip, (B,D).

        Without lengths, x are such mean embeddings, to which only the head is left to apply.
        """
        if lengths is None:
            return self.from_embeddings(x)
        if x.dim() == 2:
            x, lengths = self.frontend(x, lengths)
        elif x.dim() != 3:
            raise DataError(
                "a tagger takes waveforms (clips, samples) or features (clips, frames, mel bins), found "
                f"shape {tuple(x.shape)}"
            )
        return self.from_features(x, lengths, frames, pooled)

    def from_features(
        self, features: Tensor, lengths: Tensor, frames: bool = False, pooled: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Features (B,T,F) as the front end yields them, and lengths (B,) in frames, to what `forward`
        gives."""
        y, lengths = self.encoder(features, lengths.to(features.device))
        # Mixed precision ends here: logits in bf16 have three digits, which makes ties of close scores.
        with torch.autocast(y.device.type, enabled=False):
            y = y.to(self.head.weight.dtype)
            if frames:
                return self.head(self.head_norm(y))
            mean = masked_mean(y, lengths)
            logits = self.from_embeddings(mean)
            return (logits, mean) if pooled else logits

    def from_embeddings(self, mean: Tensor) -> Tensor:
        """Mean embeddings (B,D) of clips to logits (B,C), in the precision of the weights."""
        with torch.autocast(mean.device.type, enabled=False):
            return self.head(self.head_norm(mean))


def masked_mean(y: Tensor, lengths: Tensor) -> Tensor:
    """Mean of the first `lengths` embeddings of each clip: (B,S',D) to (B,D)."""
    inside = sequence_mask(lengths, y.shape[1])[:, :, None]
    return y.where(inside, 0.0).sum(dim=1) / lengths[:, None]


def build_tagger(features: dict[str, Any], encoder: dict[str, Any], labels: LabelTable) -> Tagger:
    """A tagger with fresh weights from the `features` and `encoder` sections of a configuration."""
    frontend = build_frontend(features)
    body = build_encoder(
        encoder["name"],
        num_mel_bins=frontend.num_mel_bins,
        target_frames=frontend.target_frames,
        **encoder_settings(encoder),
    )
    return Tagger(frontend, body, labels, encoder.get("head_norm_eps"))


def build_frontend(features: dict[str, Any]) -> Frontend:
    """The front end of the `features` section; corpus statistics must have been filled in."""
    normalization = features.get("normalization", "preset")
    mean, std = features.get("mean"), features.get("std")
    if normalization == "corpus" and mean is None:
        raise ConfigError(
            "features.normalization is 'corpus' but mean and std are not known: run stage 4, which "
            "measures them, or set features.mean and features.std"
        )
    return Frontend(
        features["preset"],
        target_frames=features.get("target_frames"),
        mean=mean,
        std=std,
        normalize=normalization != "none" or mean is not None,
    )
