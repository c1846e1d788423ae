"""What makes training fast on a GPU, and what keeps it safe: compilation, activation checkpointing, prefetch,
the search for the largest batch, overflows in fp16."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from audiotag.config import Config
from audiotag.distributed import World
from audiotag.labels import Label, LabelTable
from audiotag.losses import BinaryCrossEntropy
from audiotag.optim.optimizers import build_optimizer
from audiotag.tagger import Tagger, build_tagger
from audiotag.training import autobatch
from audiotag.training.acceleration import accelerate
from audiotag.training.divergence import StepInput
from audiotag.training.gputrials import GpuTrials
from audiotag.training.learner import Learner
from audiotag.training.prefetch import prefetch

pytestmark = pytest.mark.gpu

CLASSES = 5
MIB = 2**20
CONFIG = {
    "features": {"preset": "ast128", "target_frames": 200, "storage": "on_the_fly"},
    "encoder": {"name": "ast", "embed_dim": 96, "depth": 3, "num_heads": 3},
    "data": {"batch_size": None, "max_duration_s": "auto"},
    "augment": {"mixup": {}},
    "training": {"accumulate": 2, "amp": "bf16"},
}


def make(device: torch.device, **settings: float) -> Tagger:
    """A small AST in training mode, the same each time."""
    config = Config.model_validate({**CONFIG, "encoder": {**CONFIG["encoder"], **settings}})
    sections = config.model_dump(mode="json")
    labels = LabelTable([Label(i, f"/m/{i}", f"class {i}") for i in range(CLASSES)])
    torch.manual_seed(0)
    return build_tagger(sections["features"], sections["encoder"], labels).to(device).train()


def inputs_of(device: torch.device, clips: int = 8) -> StepInput:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(clips, 200, 128, generator=generator).to(device)
    lengths = torch.full((clips,), 200, device=device)
    return StepInput(features, lengths, torch.zeros(clips, CLASSES, device=device), ["x"] * clips, seed=3)


def learner_of(tagger: Tagger, device: torch.device, amp: str = "off") -> Learner:
    section = Config().optimizer.model_dump()
    world = World(rank=0, local_rank=0, size=1, device=device)
    loss = BinaryCrossEntropy(torch.ones(CLASSES, device=device))
    return Learner(tagger, loss, build_optimizer(section, tagger), world, amp=amp, clip_norm=1.0)


def gradients(tagger: Tagger, device: torch.device) -> dict[str, torch.Tensor]:
    learner_of(tagger, device).add_gradient(inputs_of(device), 1, last=True)
    found = {name: parameter.grad.clone() for name, parameter in tagger.named_parameters()}
    tagger.zero_grad(set_to_none=True)
    return found


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], share: float) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        tolerance = share * float(expected[name].abs().max()) + 1e-7
        assert float((gradient - expected[name]).abs().max()) <= tolerance, name


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("compile", ["off", "model", "blocks"])
def test_gradients_and_evaluation_are_the_same(device, compile, checkpointing):
    torch.compiler.reset()
    plain, fast = make(device), make(device)
    accelerate(fast, compile=compile, activation_checkpointing=checkpointing)
    assert_near(gradients(fast, device), gradients(plain, device), 2e-3)
    batch = inputs_of(device, 5)
    with torch.no_grad():
        expected = plain.eval()(batch.features, batch.lengths)
        torch.testing.assert_close(fast.eval()(batch.features, batch.lengths), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("compile", ["off", "blocks", "model"])
def test_checkpointed_blocks_draw_the_same_numbers_again(device, compile):
    """With dropout, what is compiled draws other numbers than what is not, but the same each time."""
    random = {"dropout": 0.3, "attention_dropout": 0.2, "drop_path": 0.3}
    found = []
    for checkpointing in (False, True):
        torch.compiler.reset()
        tagger = make(device, **random)
        accelerate(tagger, compile=compile, activation_checkpointing=checkpointing)
        found.append(gradients(tagger, device))
    assert_near(found[1], found[0], 2e-3)


def test_checkpointing_saves_memory(device):
    def peak(checkpointing: bool) -> int:
        tagger = make(device, depth=8)
        accelerate(tagger, activation_checkpointing=checkpointing)
        batch = inputs_of(device, 64)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        learner_of(tagger, device).add_gradient(batch, 1, last=True)
        return torch.cuda.max_memory_allocated(device) - before

    assert peak(True) < 0.5 * peak(False)


def test_prefetched_batches_are_the_same(device):
    def batch(number: int) -> dict:
        generator = torch.Generator().manual_seed(number)
        made = {
            "inputs": torch.randn(32, 200_000, generator=generator).pin_memory(),
            "lengths": torch.full((32,), 200_000),
            "labels": torch.rand(32, CLASSES, generator=generator).pin_memory(),
        }
        partner = {**made, "rows": torch.arange(32)} if number % 2 else None
        return {**made, "ids": [str(number)], **({"partner": partner} if partner else {})}

    made = [batch(number) for number in range(6)]
    seen = 0
    for number, arrived in enumerate(prefetch(made, device)):
        # Memory is taken and given back meanwhile, as training does.
        busy = torch.randn(2000, 2000, device=device)
        for _ in range(20):
            busy = busy @ busy / 2000
        assert arrived["inputs"].is_cuda and arrived["labels"].is_cuda
        assert not arrived["lengths"].is_cuda
        assert arrived["ids"] == [str(number)]
        assert torch.equal(arrived["inputs"].cpu(), made[number]["inputs"])
        assert torch.equal(arrived["labels"].cpu(), made[number]["labels"])
        assert ("partner" in arrived) == bool(number % 2)
        if number % 2:
            assert torch.equal(arrived["partner"]["inputs"].cpu(), made[number]["partner"]["inputs"])
        seen += 1
    assert seen == 6
    assert list(prefetch([], device)) == []


def test_the_largest_batch_is_found(device, monkeypatch):
    """With less memory than the GPU has, the limit is found by running into it."""
    config = Config.model_validate(CONFIG)
    world = World(rank=0, local_rank=0, size=1, device=device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    budget = 600 * MIB
    monkeypatch.setattr(autobatch, "free_bytes", lambda world: budget)
    torch.cuda.set_per_process_memory_fraction(
        (700 * MIB + torch.cuda.memory_reserved(device)) / total, device
    )
    try:
        before = torch.get_rng_state(), torch.cuda.get_rng_state(device), torch.cuda.memory_allocated(device)
        limit_s = autobatch.largest_duration(config, np.full(5000, 2.0), CLASSES, world)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert torch.equal(torch.cuda.get_rng_state(device), before[1])
        assert torch.cuda.memory_allocated(device) <= before[2] + MIB
        size = round(limit_s / 2)
        assert size > 4
        trials = GpuTrials(config, CLASSES, 1, device)
        assert trials.peak([(size, 2.0)]) <= budget
        assert trials.peak([(round(1.3 * size), 2.0)]) > budget
        assert trials.peak([(100 * size, 2.0)]) == float("inf")
        assert trials.peak([(size, 2.0)]) <= budget  # after running out of memory too
        trials.close()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def test_an_overflow_in_fp16_is_skipped(device):
    tagger = make(device)
    learner = learner_of(tagger, device, amp="fp16")
    learner.add_gradient(inputs_of(device), 1, last=True)
    learner.update(1.0)
    weights = copy.deepcopy(tagger.state_dict())
    learner.scaler.update(2.0**40)  # far beyond what fp16 can hold
    skipped = []
    for _ in range(2):
        learner.add_gradient(inputs_of(device), 1, last=True)
        outcome = learner.update(1.0)
        skipped.append(bool(outcome.skipped))
        assert not outcome.bad
    assert skipped == [True, True]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tagger.state_dict().items())
    assert learner.scaler.get_scale() < 2.0**40


def test_bad_numbers_leave_the_weights_as_they_are(device):
    """The GPU is not waited for: the update after the bad one is not made either."""
    tagger = make(device)
    learner = learner_of(tagger, device, amp="bf16")
    assert learner.flags.lagged
    weights = copy.deepcopy(tagger.state_dict())
    inputs = inputs_of(device)
    inputs.features[2, 3, 4] = float("nan")
    found = []
    for _ in range(2):
        learner.add_gradient(inputs, 1, last=True)
        found.append(learner.update(1.0).bad)
    assert found == [False, True]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tagger.state_dict().items())
