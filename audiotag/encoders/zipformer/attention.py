"""Attention: weights that a layer computes once, and the modules that mix frames with them.

Shapes: B clips, T frames, D width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiotag.encoders.zipformer.activations import scaled_linear
from audiotag.encoders.zipformer.balancer import Balancer
from audiotag.encoders.zipformer.gradients import PenaltyGradient
from audiotag.encoders.zipformer.steps import Schedule, Scheduled, Step, at
from audiotag.encoders.zipformer.whiten import Whiten

MASKED_SCORE = -1000.0  # its exponential is 0, and half precision has it


class AttentionWeights(Scheduled):
    """How much each frame takes from each other one, by content and by distance.

    Args:
        dim: D.
        pos_dim: width of the table of positions.
        num_heads: H.
        query_dim, pos_head_dim: widths of a head's queries and keys, and of its positional queries.
    """

    penalized_score, penalty = 25.0, 1e-4
    penalty_rate = 0.1
    position_skip_rate = Schedule((0, 0.5), (4000, 0.0))

    def __init__(self, dim: int, pos_dim: int, num_heads: int, query_dim: int, pos_head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.widths = [num_heads * query_dim, num_heads * query_dim, num_heads * pos_head_dim]
        # The small initial weights stand in for the usual division by the root of the head's width.
        self.in_proj = scaled_linear(dim, sum(self.widths), query_dim**-0.25)
        self.linear_pos = nn.Linear(pos_dim, num_heads * pos_head_dim, bias=False)
        with torch.no_grad():
            self.linear_pos.weight.mul_(0.05)
        self.balance_keys = Balancer(min_positive=0.4, max_positive=0.6, min_abs=0.0, probability=0.025)
        self.whiten_keys = Whiten(Schedule((0, 3.0), (20000, 6.0)), 0.025, num_groups=num_heads)

    def chances(self, batch_count: float) -> list[float]:
        """Whether to leave positions out, and whether to penalise large scores."""
        return [at(self.position_skip_rate, batch_count), self.penalty_rate]

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor, step: Step | None) -> Tensor:
        """x (B,T,D), the table (2T,P) and padding (B,T), True where there is no frame, to (B,H,T,T)."""
        query, key, query_pos = self.in_proj(x).split(self.widths, dim=-1)
        key = self.whiten_keys(self.balance_keys(key, step), step)
        projected = self.linear_pos(positions)
        trains = step is not None and self.training
        if trains and step.may_act(self.chance):
            projected = projected * ~step.flags[self.chance]
        scores = self._heads(query) @ self._heads(key).transpose(2, 3) + self._by_distance(
            query_pos, projected
        )
        if trains and step.may_act(self.chance + 1):
            flag = step.flags[self.chance + 1]
            scores = PenaltyGradient.apply(scores, self.penalized_score, self.penalty, flag)
        scores = scores.masked_fill(padding[:, None, None], MASKED_SCORE)
        # Sums are in float32 all the same; the result is kept in the precision of what it is used for.
        with torch.autocast(x.device.type, enabled=False):
            return scores.softmax(dim=-1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _by_distance(self, query: Tensor, positions: Tensor) -> Tensor:
        """Scores (B,H,T,T) of queries (B,T,H*p) and projected offsets (2T,H*p), from target to source.

        The score of target i and source j stands in row i and column T-1 + j-i of a matrix that is 2T wide.
        Where rows are cut one shorter, from T-1 on, it stands in column j.
        """
        heads = positions.unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0)
        table = self._heads(query) @ heads
        frames = query.shape[1]
        rows = table.flatten(2)[:, :, frames - 1 : frames - 1 + frames * (2 * frames - 1)]
        return rows.unflatten(2, (frames, 2 * frames - 1))[..., :frames]


class SelfAttention(nn.Module):
    """Mixes frames with all heads of the weights.

    Args:
        dim: D.
        num_heads: H.
        value_dim: width of a head's values.
    """

    def __init__(self, dim: int, num_heads: int, value_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(dim, num_heads * value_dim)
        self.out_proj = scaled_linear(num_heads * value_dim, dim, 0.05)
        self.whiten = Whiten(Schedule((0, 7.5), (20000, 22.5)))

    def forward(self, x: Tensor, weights: Tensor, step: Step | None) -> Tensor:
        """x (B,T,D) and weights (B,H,T,T) to (B,T,D)."""
        values = self.in_proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        mixed = (weights @ values).transpose(1, 2).flatten(2)
        return self.whiten(self.out_proj(mixed), step)


class NonlinAttention(nn.Module):
    """Mixes frames of a gated signal with one head of the weights, and multiplies the result by another.

    Args:
        dim: D.
        hidden_dim: width of the three signals.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, 3 * hidden_dim)
        self.out_proj = scaled_linear(hidden_dim, dim, 0.05)
        self.balancer = Balancer(
            min_positive=Schedule((0, 0.25), (20000, 0.05)),
            max_positive=Schedule((0, 0.75), (20000, 0.95)),
            min_abs=0.5,
            max_abs=5.0,
        )
        self.whiten1 = Whiten(Schedule((0, 5.0), (20000, 10.0)))
        self.whiten2 = Whiten(Schedule((0, 5.0), (20000, 15.0)))

    def forward(self, x: Tensor, weights: Tensor, step: Step | None) -> Tensor:
        """x (B,T,D) and weights (B,T,T) to (B,T,D)."""
        gate, signal, factor = self.in_proj(x).chunk(3, dim=-1)
        signal = self.whiten1(signal, step) * self.balancer(gate, step).tanh()
        return self.whiten2(self.out_proj((weights @ signal) * factor), step)


def constant_attention(weights: Tensor) -> Tensor:
    """Weights (...,T,T) that are equal wherever those given are not zero."""
    used = (weights > 0).to(weights.dtype)
    return used / used.sum(dim=-1, keepdim=True)
