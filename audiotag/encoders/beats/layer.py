"""One layer of BEATs: attention with a gated bias by distance, then feed-forward, each normed after its sum.

Shapes: B clips, N tokens, D width, H heads, d width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

GATE_VALUES = 8  # that a query is mapped to: the two gates are sums of four


class Layer(nn.Module):
    """A post-norm transformer layer.

    Args:
        dim: D.
        num_heads: H.
        feedforward_dim: hidden width of the feed-forward part.
        residual_scale: alpha, the factor on what a sum adds its branch to; DeepNorm's (2 layers)^(1/4), or 1.
        gated_bias: whether each query decides how much the bias by distance counts.
        dropout: rate on the outputs of attention and of the feed-forward part.
        attention_dropout: rate on attention weights.
        activation_dropout: rate inside of the feed-forward part.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        residual_scale: float,
        gated_bias: bool,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
    ) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.self_attn = Attention(dim, num_heads, gated_bias, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, feedforward_dim)
        self.fc2 = nn.Linear(feedforward_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.activation_dropout = nn.Dropout(activation_dropout)

    def forward(self, x: Tensor, bias: Tensor, key_mask: Tensor) -> Tensor:
        """(B,N,D), with a bias (H,N,N) and 0 or -inf for each key (B,1,1,N), to (B,N,D)."""
        attended = self.dropout(self.self_attn(x, bias, key_mask))
        x = self.self_attn_layer_norm(torch.add(attended, x, alpha=self.residual_scale))
        fed = self.dropout(self.fc2(self.activation_dropout(functional.gelu(self.fc1(x)))))
        return self.final_layer_norm(torch.add(fed, x, alpha=self.residual_scale))


class Attention(nn.Module):
    """Multi-head self-attention with a bias on its scores.

    Args:
        dim: D.
        num_heads: H.
        gated_bias: whether a query multiplies the bias by a number of its own.
        dropout: rate on attention weights.
    """

    def __init__(self, dim: int, num_heads: int, gated_bias: bool, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.gated_bias = gated_bias
        self.dropout = dropout
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        if gated_bias:
            self.grep_linear = nn.Linear(dim // num_heads, GATE_VALUES)
            self.grep_a = nn.Parameter(torch.ones(1, num_heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor, key_mask: Tensor) -> Tensor:
        """(B,N,D) to (B,N,D)."""
        query, key, value = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        # All of it in the precision of the queries, which attention wants of its mask.
        bias, key_mask = bias.to(query.dtype), key_mask.to(query.dtype)
        if self.gated_bias:
            mask = torch.addcmul(key_mask, self.gate(query).to(query.dtype), bias)
        else:
            mask = key_mask + bias
        dropout = self.dropout if self.training else 0.0
        y = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def gate(self, query: Tensor) -> Tensor:
        """The factor (B,H,N,1) of each query (B,H,N,d) on its bias."""
        logits = self.grep_linear(query).unflatten(-1, (2, GATE_VALUES // 2)).sum(dim=-1)
        update, reset = logits.sigmoid().chunk(2, dim=-1)
        return update * (reset * self.grep_a - 1.0) + 2.0


def residual_scale(depth: int) -> float:
    """DeepNorm's alpha for an encoder of so many layers."""
    return (2.0 * depth) ** 0.25


def reset_layer(layer: Layer, depth: int | None) -> None:
    """Random weights of a layer: of DeepNorm for so many layers, or, for None, normal ones of one size."""
    attention = layer.self_attn
    small = 1.0 if depth is None else (8.0 * depth) ** -0.25
    gains = {
        attention.q_proj: 1.0,
        attention.k_proj: 1.0,
        attention.v_proj: small,
        attention.out_proj: small,
        layer.fc1: small,
        layer.fc2: small,
    }
    for linear, gain in gains.items():
        if depth is None:
            nn.init.normal_(linear.weight, std=0.02)
        else:
            nn.init.xavier_normal_(linear.weight, gain=gain)
        nn.init.zeros_(linear.bias)
    if attention.gated_bias:
        nn.init.normal_(attention.grep_linear.weight, std=0.02)
        nn.init.zeros_(attention.grep_linear.bias)
