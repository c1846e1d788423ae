"""From teachers' logits to what a student learns: one teacher of several, and soft targets at a temperature.

Shapes: B clips, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def exclusive_log_odds(logits: Tensor) -> Tensor:
    """log(p / (1 - p)) of the softmax p of logits (B,C), of which the sigmoid is p again."""
    if logits.shape[1] < 2:
        return logits
    # 1 - p of the likeliest class is the sum of the others, which a difference would round away.
    best = logits.argmax(dim=1, keepdim=True)
    of_others = logits.scatter(1, best, -math.inf).logsumexp(dim=1, keepdim=True)
    log_p = logits.log_softmax(dim=1)
    odds = log_p - torch.log1p(-log_p.exp())
    return odds.scatter(1, best, logits.gather(1, best) - of_others)


def mean_log_odds(members: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """log(p / (1 - p)) of the weighted mean p of the probabilities of several models, each the sigmoid of its
    log odds (B,C).

    Args:
        members: of each model.
        shares: of each model, their sum 1.
    """
    if len(members) == 1:
        return members[0]
    log_odds = torch.stack(list(members))
    log_shares = log_odds.new_tensor(shares).log()[:, None, None]
    log_p = (functional.logsigmoid(log_odds) + log_shares).logsumexp(dim=0)
    log_q = (functional.logsigmoid(-log_odds) + log_shares).logsumexp(dim=0)
    return log_p - log_q


def soften(logits: Tensor, *, temperature: float, form: str, exclusive: bool) -> Tensor:
    """Soft targets (B,C) from a teacher's logits (B,C), which are log odds where its classes exclude each
    other.

    Args:
        logits: of the teacher.
        temperature: what logits are divided by.
        form: `bce`, a probability of each class, or `softmax`, probabilities over the classes.
        exclusive: whether the teacher says that one of the classes is right, and which.
    """
    if form == "bce":
        return (logits / temperature).sigmoid()
    # Logarithms of probabilities are the logits of a softmax, but for a constant.
    scores = functional.logsigmoid(logits) if exclusive else logits
    return (scores / temperature).softmax(dim=1)
