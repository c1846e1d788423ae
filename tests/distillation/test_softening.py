"""Teachers' logits: log odds of exclusive classes, means of several teachers, soft targets."""

from __future__ import annotations

import math

import pytest
import torch

from audiotag.distillation.softening import exclusive_log_odds, mean_log_odds, soften
from audiotag.evaluation.logodds import log_odds


def numbers(*shape: int, seed: int = 0, scale: float = 4.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_log_odds_of_exclusive_classes_are_those_of_the_evaluation():
    logits = numbers(20, 5)
    logits[0] = torch.tensor([90.0, 0.0, -3.0, 1.0, 2.0])  # whose likeliest has a probability of 1 in float32
    logits[1, :2] = logits[1].max() + 1.0  # two are equal
    torch.testing.assert_close(exclusive_log_odds(logits), torch.from_numpy(log_odds(logits.numpy())))
    torch.testing.assert_close(exclusive_log_odds(logits)[2:].sigmoid(), logits[2:].softmax(dim=1))
    assert torch.equal(exclusive_log_odds(logits[:, :1]), logits[:, :1])


def test_several_teachers_are_the_mean_of_their_probabilities():
    one, other = numbers(6, 4), numbers(6, 4, seed=1)
    mean = mean_log_odds([one, other], [0.75, 0.25])
    torch.testing.assert_close(mean.sigmoid(), 0.75 * one.sigmoid() + 0.25 * other.sigmoid())
    assert torch.equal(mean_log_odds([one], [1.0]), one)
    # Sigmoids of both are 1 in float32, and their mean has log odds all the same.
    far = mean_log_odds([torch.tensor([[100.0]]), torch.tensor([[102.0]])], [0.5, 0.5])
    assert far.item() == pytest.approx(100 - math.log((1 + math.exp(-2)) / 2), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_targets(temperature):
    logits = numbers(6, 4)
    softness = {"temperature": temperature, "exclusive": False}
    torch.testing.assert_close(soften(logits, form="bce", **softness), (logits / temperature).sigmoid())
    expected = (logits / temperature).softmax(dim=1)
    torch.testing.assert_close(soften(logits, form="softmax", **softness), expected)
    # A teacher of exclusive classes gives the softmax of its own logits, of which only log odds are kept.
    kept = exclusive_log_odds(logits)
    softness["exclusive"] = True
    torch.testing.assert_close(soften(kept, form="softmax", **softness), expected)
