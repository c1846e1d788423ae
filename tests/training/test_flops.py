"""Counted operations against those worked out on paper, and the table of what GPUs can do."""

from __future__ import annotations

import logging

import pytest
import torch

from audiotag.training.acceleration import accelerate
from audiotag.training.flops import (
    PEAK_TFLOPS,
    BatchFlops,
    estimate,
    known_peak,
    peak_flops,
    training_flops,
)
from tests.tiny import tiny_tagger

CLIPS, FRAMES, BINS = 3, 64, 128


def product(rows: int, inner: int, columns: int) -> int:
    """Operations of a matrix product."""
    return 2 * rows * inner * columns


def forward_by_hand() -> tuple[int, int]:
    """Operations of one clip in the tiny AST: all of them, and those of the patches."""
    width, patches, classes = 16, (128 // 16) * (64 // 16), 3
    tokens, summary = 2 + patches, 2
    patch_embed = product(patches, 16 * 16, width)

    def block(outputs: int) -> int:
        attention = product(outputs, width, tokens) + product(outputs, tokens, width)
        after = product(outputs, width, width) + 2 * product(outputs, width, 4 * width)
        return product(tokens, width, 3 * width) + attention + after

    # The last block computes the summary tokens alone.
    return patch_embed + block(tokens) + block(summary) + product(1, width, classes), patch_embed


def test_operations_of_a_training_step_are_those_on_paper():
    forward, patch_embed = forward_by_hand()
    # Backwards, each product has two of its size, but nobody needs the gradient of the features.
    expected = CLIPS * (3 * forward - patch_embed)
    assert training_flops(tiny_tagger(), (CLIPS, FRAMES, BINS)) == expected


def test_what_is_frozen_needs_no_gradient():
    forward, _ = forward_by_hand()
    tagger = tiny_tagger()
    tagger.requires_grad_(False)
    assert training_flops(tagger, (CLIPS, FRAMES, BINS)) == CLIPS * forward
    tagger.head.requires_grad_(True)
    assert training_flops(tagger, (1, FRAMES, BINS)) == forward + product(1, 16, 3)


def test_neither_recomputing_nor_compiling_counts():
    tagger = tiny_tagger()
    plain = training_flops(tagger, (1, FRAMES, BINS))
    accelerate(tagger, compile="blocks", activation_checkpointing=True)
    tagger.compile()
    assert training_flops(tagger.train(), (1, FRAMES, BINS)) == plain


def test_counting_leaves_no_trace():
    tagger = tiny_tagger().train()
    features, lengths = torch.randn(2, FRAMES, BINS), torch.full((2,), FRAMES)
    tagger.from_features(features, lengths).sum().backward()
    weights = {name: (value, value.clone()) for name, value in tagger.state_dict(keep_vars=True).items()}
    gradients = {name: parameter.grad.clone() for name, parameter in tagger.named_parameters()}
    random = torch.get_rng_state()
    training_flops(tagger, (CLIPS, FRAMES, BINS))
    assert torch.equal(torch.get_rng_state(), random)
    assert tagger.training
    for name, value in tagger.state_dict(keep_vars=True).items():
        same, copy = weights[name]
        assert value is same and torch.equal(value, copy)
    assert all(torch.equal(parameter.grad, gradients[name]) for name, parameter in tagger.named_parameters())
    assert not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()


class OfAnyLength(torch.nn.Module):
    """As much of a tagger as counting needs, that takes any length and has attention."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.counted: list[int] = []

    def from_features(self, features, lengths):
        x = self.linear(features)
        return torch.nn.functional.scaled_dot_product_attention(x, x, x).mean((1, 2))


def test_few_lengths_are_counted_and_the_others_follow_from_them():
    tagger = OfAnyLength()
    flops = BatchFlops(tagger)
    exact = {length: training_flops(tagger, (1, length, 8)) for length in (10, 20, 30, 40, 50, 60)}
    for length in (10, 60, 20, 40):
        assert flops((5, length, 8)) == 5 * exact[length]
    for length in (30, 50):
        assert flops((2, length, 8)) == pytest.approx(2 * exact[length])
    for length in (5, 120, 600):
        assert flops((2, length, 8)) == pytest.approx(2 * training_flops(tagger, (1, length, 8)))


def test_operations_outside_the_counted_lengths_are_never_negative():
    # A model that cuts its input to one length needs ever fewer operations per frame.
    assert estimate(1000, {10: 100.0, 11: 100.0, 12: 100.0, 20: 100.0}) == 0.0


def test_what_thaws_is_counted_anew_and_what_freezes_again_is_remembered(monkeypatch):
    tagger = tiny_tagger()
    flops = BatchFlops(tagger)
    shape = (CLIPS, FRAMES, BINS)
    full = flops(shape)
    blocks = tagger.encoder.blocks
    blocks[0].requires_grad_(False)
    first = flops(shape)
    # As many elements as before, at another place: what lies below needs gradients to pass through it.
    blocks[0].requires_grad_(True)
    blocks[1].requires_grad_(False)
    assert (first, flops(shape)) == (frozen_flops(0), frozen_flops(1))
    assert flops(shape) != full
    blocks[1].requires_grad_(True)
    monkeypatch.setattr("audiotag.training.flops.training_flops", None)  # nothing is counted twice
    assert flops(shape) == full


def frozen_flops(block: int) -> float:
    """Operations of the batch with one block frozen."""
    tagger = tiny_tagger()
    tagger.encoder.blocks[block].requires_grad_(False)
    return training_flops(tagger, (CLIPS, FRAMES, BINS))


def test_a_model_that_cannot_be_counted_trains_without_mfu(caplog):
    class Odd(OfAnyLength):
        def from_features(self, features, lengths):
            return super().from_features(features[: lengths.max().item()], lengths)

    flops = BatchFlops(Odd())
    with caplog.at_level(logging.WARNING):
        assert [flops((2, 16, 8)), flops((2, 17, 8))] == [0.0, 0.0]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("name", "amp", "tf32", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", True, 312.0),
        ("NVIDIA A100-PCIE-40GB", "off", True, 156.0),
        ("NVIDIA A100-PCIE-40GB", "off", False, 19.5),
        ("NVIDIA A10", "fp16", True, 125.0),
        ("NVIDIA A10G", "fp16", True, 70.0),
        ("NVIDIA H100 80GB HBM3", "bf16", True, 989.4),
        ("NVIDIA H100 PCIe", "bf16", True, 756.0),
        ("NVIDIA H100 NVL", "bf16", True, 835.5),
        ("NVIDIA H200", "fp16", True, 989.4),
        ("NVIDIA B200", "bf16", True, 2250.0),
        ("NVIDIA GB200", "bf16", True, 2500.0),
        ("NVIDIA L4", "bf16", True, 121.0),
        ("NVIDIA L40S", "bf16", True, 362.0),
        ("NVIDIA GeForce RTX 3090", "fp16", True, 71.0),
        ("NVIDIA GeForce RTX 4090", "off", True, 82.6),
        ("Tesla V100-SXM2-16GB", "fp16", True, 125.0),
        ("Tesla V100-SXM2-32GB-LS", "off", True, 15.7),
        ("Tesla V100-PCIE-16GB", "fp16", True, 112.0),
        ("Tesla V100S-PCIE-32GB", "fp16", True, 130.0),
        ("Tesla T4", "off", True, 8.1),
        ("Tesla T4", "bf16", True, None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "bf16", True, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", True, None),
        ("NVIDIA GeForce GTX 1080", "fp16", True, None),
    ],
)
def test_peaks_by_name(name, amp, tf32, tflops):
    assert known_peak(name, amp, tf32) == (tflops and pytest.approx(tflops * 1e12))


def test_a_precision_with_less_digits_is_no_slower():
    for half, bf16, tf32, float32 in PEAK_TFLOPS.values():
        assert half >= (tf32 or 0) >= 0 and half > float32
        assert bf16 in (None, half)


def test_the_configured_peak_counts():
    cpu = torch.device("cpu")
    assert peak_flops(cpu, "off") is None
    assert peak_flops(cpu, "bf16", 1.5) == 1.5e12
