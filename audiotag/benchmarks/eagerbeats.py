"""BEATs with its attention written out step by step, as plain code has it, to be measured beside ours.

Shapes: B clips, N tokens, D width, H heads.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiotag.encoders.beats.layer import Attention
from audiotag.encoders.beats.positions import RelativeBias, buckets_of
from audiotag.errors import ConfigError
from audiotag.tagger import Tagger

SCORE_SCALE = 32.0  # by which scores are made smaller until their row's maximum is subtracted


class EagerAttention(Attention):
    """Scores, their maximum, the gated bias, softmax and mixture, one after the other."""

    def forward(self, x: Tensor, bias: Tensor, key_mask: Tensor) -> Tensor:
        """(B,N,D), with a bias (H,N,N) and 0 or -inf for each key (B,1,1,N), to (B,N,D)."""
        query, key, value = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = (query * (query.shape[-1] ** -0.5 / SCORE_SCALE)) @ key.transpose(2, 3)
        scores = (scores - scores.amax(dim=-1, keepdim=True)) * SCORE_SCALE
        scores = scores + (self.gate(query) * bias if self.gated_bias else bias)
        weights = functional.dropout((scores + key_mask).softmax(dim=-1), self.dropout, self.training)
        return self.out_proj((weights @ value).transpose(1, 2).flatten(2))


class EagerBias(RelativeBias):
    """The bias looked up for every pair of tokens."""

    def forward(self, num_tokens: int | Tensor) -> Tensor:
        """The bias (H,N,N) of queries (rows) and keys."""
        place = torch.arange(num_tokens, device=self.weight.device)
        buckets = buckets_of(place[None, :] - place[:, None], len(self.weight), self.max_distance)
        return functional.embedding(buckets, self.weight).permute(2, 0, 1)


def build_eager_twin(tagger: Tagger) -> Tagger:
    """A copy of a tagger with a BEATs that computes the same, step by step."""
    name = type(tagger.encoder).__name__
    if name != "Beats":
        raise ConfigError(f"there is no plain code of encoder {name} to compare with: only of beats")
    twin = copy.deepcopy(tagger)
    encoder = twin.encoder
    for layer in encoder.blocks:
        ours = layer.self_attn
        layer.self_attn = replaced(
            ours, EagerAttention(ours.q_proj.in_features, ours.num_heads, ours.gated_bias, ours.dropout)
        )
    bias = encoder.relative_attention_bias
    buckets, heads = bias.weight.shape
    encoder.relative_attention_bias = replaced(bias, EagerBias(buckets, bias.max_distance, heads))
    return twin


def replaced(ours: nn.Module, other: nn.Module) -> nn.Module:
    """The other module with the weights of ours, where those are."""
    other.load_state_dict(ours.state_dict())
    return other.to(next(ours.parameters()).device)
