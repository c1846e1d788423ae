"""BEATs: a transformer over patches of a log-mel image, which keeps clips at their own lengths.

Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", ICML 2023. Parameters carry the names of
its checkpoints, but for the table of the bias by distance: there each layer lists it, here it stands once.

Shapes: B clips, T frames, F mel bins, N tokens, P width of a patch's embedding, D width, H heads.
"""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
from torch import Tensor, nn

from audiotag.encoders.beats.layer import Layer, reset_layer, residual_scale
from audiotag.encoders.beats.positions import PositionalConvolution, RelativeBias
from audiotag.encoders.gradientscale import ScaleGradient
from audiotag.errors import DataError


class Beats(nn.Module):
    """Log-mel features of any length to one embedding for each patch, in order of time.

    Args:
        num_mel_bins: F.
        patch_size: side of the square patches, in frames and bins; what does not fill one is left out.
        patch_dim: P.
        patch_bias: whether the convolution that makes patches has a bias.
        embed_dim: D.
        depth: number of layers.
        num_heads: H.
        feedforward_dim: hidden width of a layer's feed-forward part.
        conv_kernel, conv_groups: of the positional convolution: tokens that it sees, groups of channels.
        deep_norm: whether residuals are scaled as DeepNorm has it.
        num_buckets, max_distance: of the bias by distance; `max_distance` is in tokens.
        gated_bias: whether each query decides how much that bias counts.
        input_dropout: rate on the embedded patches.
        dropout: rate before the first layer and on the branches of the layers.
        attention_dropout: rate on attention weights.
        activation_dropout: rate inside of the feed-forward parts.
        output_dropout: rate on the embeddings, for the head.
        layer_drop: probability that a layer is left out of a training pass.
        gradient_decay: factor on the gradient at the input of every layer.
        last_layer_only: nothing before the last layer learns, but the table of the bias through that layer.
        padding: `exact` takes only patches that lie within their clip; `original` the tokens that the
            original's rule gives a clip, part of whose last patches may be padding.
    """

    def __init__(
        self,
        num_mel_bins: int = 128,
        patch_size: int = 16,
        patch_dim: int = 512,
        patch_bias: bool = False,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        feedforward_dim: int = 3072,
        conv_kernel: int = 128,
        conv_groups: int = 16,
        deep_norm: bool = True,
        num_buckets: int = 320,
        max_distance: int = 800,
        gated_bias: bool = True,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        output_dropout: float = 0.0,
        layer_drop: float = 0.0,
        gradient_decay: float = 1.0,
        last_layer_only: bool = False,
        padding: Literal["exact", "original"] = "exact",
    ) -> None:
        super().__init__()
        self.num_mel_bins = num_mel_bins
        self.output_dim = embed_dim
        self.num_layers = 1 + depth  # as `layer_of` counts
        self.min_frames = self.patch_size = patch_size
        self.rows = num_mel_bins // patch_size
        self.layer_drop = layer_drop
        self.gradient_decay = gradient_decay
        self.last_layer_only = last_layer_only
        # By the original's rule a clip has one more patch or so of which a part is padding.
        self.batch_independent = padding == "exact"
        self.groups_samples = padding == "original"
        self.skips_parameters = layer_drop > 0.0 or last_layer_only

        self.patch_embedding = nn.Conv2d(1, patch_dim, patch_size, stride=patch_size, bias=patch_bias)
        self.layer_norm = nn.LayerNorm(patch_dim)
        same = patch_dim == embed_dim
        self.post_extract_proj = nn.Identity() if same else nn.Linear(patch_dim, embed_dim)
        self.input_dropout, self.dropout = nn.Dropout(input_dropout), nn.Dropout(dropout)
        self.output_dropout = nn.Dropout(output_dropout)
        self.relative_attention_bias = RelativeBias(num_buckets, max_distance, num_heads)
        layers = [
            Layer(
                embed_dim,
                num_heads,
                feedforward_dim,
                residual_scale=residual_scale(depth) if deep_norm else 1.0,
                gated_bias=gated_bias,
                dropout=dropout,
                attention_dropout=attention_dropout,
                activation_dropout=activation_dropout,
            )
            for _ in range(depth)
        ]
        for layer in layers:
            reset_layer(layer, depth if deep_norm else None)
        position = PositionalConvolution(embed_dim, conv_kernel, conv_groups)
        # Named as in published checkpoints: encoder.layers.<index> beside patch_embedding.
        self.encoder = nn.ModuleDict(
            {
                "pos_conv": nn.Sequential(position, nn.GELU()),
                "layer_norm": nn.LayerNorm(embed_dim),
                "layers": nn.ModuleList(layers),
            }
        )

    @property
    def blocks(self) -> list[Layer]:
        """All layers in order, for compilation and activation checkpointing one by one."""
        return list(self.encoder["layers"])

    def layer_of(self, parameter_name: str) -> int:
        """The layer that a parameter belongs to: 0 is all before the layers, `num_layers - 1` the last one.

        The table of the bias, which all share, goes with the last: with gradients that decay, most of what it
        learns comes from there.
        """
        part, *path = parameter_name.split(".")
        if part == "relative_attention_bias":
            return self.num_layers - 1
        return 1 + int(path[1]) if part == "encoder" and path[0] == "layers" else 0

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised log-mel (B,T,F) with lengths (B,) to embeddings (B,N,D) and the number of each clip's.

        Tokens come in order of time, those of one time by frequency. The padding of a clip that is shorter
        than `min_frames` is taken for a part of it.
        """
        if not torch.jit.is_tracing():
            self._check(x)
        counts = self.num_tokens(lengths, x.shape[1])
        *lower, last = self.blocks
        stays = self._draw() if self.training and self.layer_drop > 0.0 else [None] * len(self.blocks)
        # Without gradients nothing of what they would need is kept.
        with torch.no_grad() if self.last_layer_only else contextlib.nullcontext():
            x = self.embed(x)
            inside = torch.arange(x.shape[1], device=x.device) < counts[:, None]
            x = self.position(x, inside)
        bias = self.relative_attention_bias(x.shape[1])
        key_mask = torch.zeros_like(x[:, :, 0]).masked_fill(~inside, float("-inf"))[:, None, None]
        with torch.no_grad() if self.last_layer_only else contextlib.nullcontext():
            for layer, stay in zip(lower, stays[:-1], strict=True):
                x = self._pass(layer, stay, x, bias, key_mask)
        x = self._pass(last, stays[-1], x, bias, key_mask)
        return self.output_dropout(x), counts

    def embed(self, x: Tensor) -> Tensor:
        """Log-mel (B,T,F) to tokens (B,N,D)."""
        patches = self.patch_embedding(x.unsqueeze(1)).flatten(2).transpose(1, 2)
        return self.input_dropout(self.post_extract_proj(self.layer_norm(patches)))

    def position(self, x: Tensor, inside: Tensor) -> Tensor:
        """Tokens (B,N,D) to what enters the first layer, by which of them (B,N) lie inside of their clip."""
        x = x.where(inside[:, :, None], 0.0)
        return self.dropout(self.encoder["layer_norm"](x + self.encoder["pos_conv"](x)))

    def num_tokens(self, lengths: Tensor, num_frames: int | Tensor) -> Tensor:
        """How many tokens (B,) clips of these lengths (B,) have in a batch of so many frames."""
        if not self.groups_samples:
            return self.rows * (lengths.clamp(min=self.patch_size) // self.patch_size)
        # The original: as many frames for each token as go evenly, in the order of both.
        most = self.rows * (num_frames // self.patch_size)
        group = num_frames // most
        return ((lengths.clamp(min=1) + group - 1) // group).clamp(max=most)

    def _pass(self, layer: Layer, stay: Tensor | None, x: Tensor, bias: Tensor, key_mask: Tensor) -> Tensor:
        if self.gradient_decay != 1.0:
            x = ScaleGradient.apply(x, self.gradient_decay)
        if stay is None:
            return layer(x, bias, key_mask)
        if torch.compiler.is_compiling():  # one program, whichever layers stay
            return torch.where(stay.to(x.device), layer(x, bias, key_mask), x)
        return layer(x, bias, key_mask) if stay else x

    @torch.compiler.disable
    def _draw(self) -> list[Tensor]:
        """Whether each layer is in this pass, from the generator of the CPU, so that no GPU is waited for."""
        return list((torch.rand(len(self.blocks)) > self.layer_drop).unbind())

    def _check(self, x: Tensor) -> None:
        if x.shape[2] != self.num_mel_bins:
            raise DataError(
                f"this BEATs takes features of {self.num_mel_bins} mel bins, found {x.shape[2]}: set "
                "features.preset to that which the model was made with"
            )
        if x.shape[1] < self.patch_size:
            raise DataError(
                f"a BEATs needs {self.patch_size} frames ({10 * self.patch_size} ms) or more, found "
                f"{x.shape[1]}: pad the features, as a tagger's front end does, or leave the clip out"
            )
