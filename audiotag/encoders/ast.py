"""The Audio Spectrogram Transformer: a vision transformer over overlapping patches of a log-mel image.

Gong, Chung and Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021. Two tokens in front of the
patches, from the distilled DeiT, sum the clip up: the class token and the distillation token. Parameters
carry the names of the original checkpoints without their `v.` prefix.

Shapes: B clips, T frames, F mel bins, N = 2 + patches tokens, D width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiotag.encoders.astpositions import adapt_positions, describe_adaptation
from audiotag.errors import ConfigError, DataError

NUM_SUMMARY_TOKENS = 2


class Ast(nn.Module):
    """Log-mel features of one fixed size to the two summary tokens.

    Args:
        input_frames: frames T of every input; the position embedding is made for them.
        num_mel_bins: mel bins F of the input.
        embed_dim, depth, num_heads: width, number of blocks, attention heads.
        mlp_ratio: hidden width of the feed-forward part over `embed_dim`.
        patch_size: side of the square patches, in bins and frames.
        freq_stride, time_stride: step between patches, in bins and frames.
        dropout: rate after the position embedding and in the feed-forward part.
        attention_dropout: rate on attention weights.
        drop_path: stochastic depth, rate at the last block, rising linearly from 0 at the first.
        block_norm_eps, final_norm_eps: LayerNorm eps in the blocks and after the last.
    """

    batch_independent = True

    def __init__(
        self,
        input_frames: int,
        num_mel_bins: int,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        patch_size: int = 16,
        freq_stride: int = 10,
        time_stride: int = 10,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        block_norm_eps: float = 1e-6,
        final_norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.output_dim = embed_dim
        self.num_layers = 1 + depth  # as `layer_of` counts
        self.input_frames = input_frames
        self.num_mel_bins = num_mel_bins
        self.grid = patch_grid(num_mel_bins, input_frames, patch_size, freq_stride, time_stride)
        num_tokens = NUM_SUMMARY_TOKENS + self.grid[0] * self.grid[1]
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.dist_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, num_tokens, embed_dim))
        self.pos_dropout = nn.Dropout(dropout)
        self.patch_embed = PatchEmbed(embed_dim, patch_size, (freq_stride, time_stride))
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                hidden_dim=round(mlp_ratio * embed_dim),
                dropout=dropout,
                attention_dropout=attention_dropout,
                drop_path=drop_path * index / max(1, depth - 1),
                norm_eps=block_norm_eps,
            )
            for index in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=final_norm_eps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal tokens, positions and block matrices; the patch convolution keeps its uniform default."""
        for embedding in (self.cls_token, self.dist_token, self.pos_embed):
            nn.init.normal_(embedding, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def layer_of(self, parameter_name: str) -> int:
        """The layer that a parameter belongs to: 0 is all before the blocks, `num_layers - 1` the last block
        with the norm that follows it."""
        part, _, inner = parameter_name.partition(".")
        if part == "blocks":
            return 1 + int(inner.partition(".")[0])
        return self.num_layers - 1 if part == "norm" else 0

    def adapt_weights(self, weights: dict[str, Tensor], source: Ast) -> tuple[dict[str, Tensor], list[str]]:
        """Weights of another AST, `source`, with positions for the patches of this one, and what was done."""
        if source.grid == self.grid:
            return weights, []
        positions = adapt_positions(weights["pos_embed"], source.grid, self.grid, NUM_SUMMARY_TOKENS)
        return {**weights, "pos_embed": positions}, [describe_adaptation(source.grid, self.grid)]

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised log-mel (B,T,F) to the summary tokens (B,2,D) and their number, 2 for every clip.

        The lengths (B,) of the clips play no part: padded frames are input like any others.
        """
        if x.shape[1:] != (self.input_frames, self.num_mel_bins):
            raise DataError(
                f"this AST takes {self.input_frames} frames of {self.num_mel_bins} mel bins, found "
                f"{x.shape[1]} frames of {x.shape[2]}: set features.target_frames and features.preset to "
                "those that the model was made with"
            )
        tokens = self.embed(x)
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            # Nobody reads the patches that leave the last block, so it only computes the summary.
            tokens = block(tokens, num_outputs=NUM_SUMMARY_TOKENS if index == last else None)
        return self.norm(tokens), torch.full_like(lengths, NUM_SUMMARY_TOKENS)

    def embed(self, x: Tensor) -> Tensor:
        """Log-mel (B,T,F) to what enters the blocks (B,N,D): [cls, dist, patches] plus positions."""
        patches = self.patch_embed(x)
        # Expanded one by one, since DDP complains of the strides that gradients of a joined pair have; by the
        # shape, since exporters take `len` for a number.
        summary = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.dist_token)]
        return self.pos_dropout(torch.cat([*summary, patches], dim=1) + self.pos_embed)


def patch_grid(
    num_mel_bins: int, num_frames: int, patch_size: int = 16, freq_stride: int = 10, time_stride: int = 10
) -> tuple[int, int]:
    """Rows (frequency) and columns (time) of patches that fit an image of F bins and T frames."""
    if num_mel_bins < patch_size or num_frames < patch_size:
        raise ConfigError(
            f"encoder.patch_size {patch_size} does not fit features of {num_frames} frames and "
            f"{num_mel_bins} mel bins"
        )
    return (num_mel_bins - patch_size) // freq_stride + 1, (num_frames - patch_size) // time_stride + 1


class PatchEmbed(nn.Module):
    """A strided convolution that turns each patch into one token."""

    def __init__(self, embed_dim: int, patch_size: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, embed_dim, kernel_size=patch_size, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B,T,F) to (B,patches,D), frequency-major: all of the lowest row first, in order of time."""
        image = x.transpose(1, 2).unsqueeze(1)
        return self.proj(image).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then feed-forward, each added to the stream."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        dropout: float,
        attention_dropout: float,
        drop_path: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.attn = Attention(embed_dim, num_heads, attention_dropout)
        self.norm2 = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.mlp = FeedForward(embed_dim, hidden_dim, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, num_outputs: int | None = None) -> Tensor:
        """(B,N,D) to (B,N,D), or to the first `num_outputs` tokens alone."""
        x = x[:, :num_outputs] + self.drop_path(self.attn(self.norm1(x), num_outputs))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Multi-head self-attention; the rows of `qkv` are all queries, then all keys, then all values."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor, num_outputs: int | None = None) -> Tensor:
        """(B,N,D) to (B,N,D), or to the first `num_outputs` tokens alone, which see all the others."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        y = functional.scaled_dot_product_attention(query[:, :, :num_outputs], key, value, dropout_p=dropout)
        return self.proj(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linears with an exact (erf) GELU between them."""

    def __init__(self, embed_dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B,N,D) to (B,N,D)."""
        return self.dropout(self.fc2(self.dropout(functional.gelu(self.fc1(x)))))


class DropPath(nn.Module):
    """Stochastic depth: in training, a clip's branch is left out with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.is_active = rate > 0.0
        # A number would be built into what torch.compile makes: a compilation for each block.
        self.register_buffer("keep", torch.tensor(1.0 - rate), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B,N,D) to (B,N,D); branches that stay are scaled so that the mean does not change."""
        if not (self.training and self.is_active):
            return x
        stays = torch.rand(len(x), 1, 1, device=x.device) < self.keep
        return x * (stays / self.keep).to(x.dtype)
