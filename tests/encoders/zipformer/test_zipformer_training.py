"""What acts in training alone: schedules, random choices, precision, memory, going on from a checkpoint."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from audiotag.encoders.zipformer import activations
from audiotag.encoders.zipformer import encoder as encoder_module
from audiotag.encoders.zipformer.activations import SharedDropout
from audiotag.encoders.zipformer.balancer import Balancer
from audiotag.encoders.zipformer.encoder import Zipformer, layer_skip_rates
from audiotag.encoders.zipformer.layer import Bypass, FeedForward
from audiotag.encoders.zipformer.steps import Schedule, StepSource, at
from audiotag.encoders.zipformer.whiten import Whiten
from audiotag.training.acceleration import accelerate
from audiotag.training.flops import training_flops
from tests.encoders.zipformer.reference import (
    CPU,
    SIZES,
    deviation,
    facts,
    step_of,
    tagger_of,
    tiny_zipformer,
    whiten_always,
)

SCHEDULES = facts("schedules")
COUNTS = SCHEDULES["batch_counts"]
# What the original calls our attributes; None is never used.
RENAMED = {
    r"\.prob$": ".probability",
    r"\.layerdrop_rate$": ".skip_rate",
    r"\.whitening_limit$": ".limit",
    r"encoder_embed\.dropout\.p$": "encoder_embed.dropout.rate",
    r"\.dropout_p$": ".dropout",
    r"\.scale_min$": ".limiter.low",
    r"\.pos_emb_skip_rate$": ".position_skip_rate",
}
SHAPE = (3, 60, 80)
LENGTHS = torch.tensor([60, 50, 31])


@pytest.fixture
def encoder() -> Zipformer:
    torch.manual_seed(0)
    return tiny_zipformer().train()


def batch(seed: int = 1) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def gradients(encoder: nn.Module, seed: int = 5, count: float | None = None) -> dict[str, torch.Tensor]:
    """Gradients of all parameters after a pass with random choices from a seed."""
    if count is not None:
        encoder.set_batch_count(count)
    torch.manual_seed(seed)
    encoder(batch(seed), LENGTHS)[0].square().mean().backward()
    found = {name: parameter.grad.clone() for name, parameter in encoder.named_parameters()}
    encoder.zero_grad()
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


def published(name: str) -> Zipformer:
    """A model of a published size, or the tiny one, without data."""
    config = facts({"normal": "parameters_normal", "small": "parameters_small"}.get(name, "tiny_config"))
    config = config.get("config", config)
    with torch.device("meta"):
        return Zipformer(80, **{size: config[size] for size in SIZES})


def our_schedules(pattern: str, modules: dict[str, nn.Module]) -> list[Schedule]:
    """All that a name of the original with `*` for indexes stands for."""
    for theirs, ours in RENAMED.items():
        pattern = re.sub(theirs, ours, pattern)
    path, _, attribute = pattern.rpartition(".")
    path = re.escape(path).replace(r"encoders\.\*\.layers", r"encoders\.\d+(\.encoder)?\.layers")
    path = path.replace(r"\*", r"\d+")
    return [getattr(module, attribute) for name, module in modules.items() if re.fullmatch(path, name)]


def test_every_schedule():
    modules = dict(published("normal").named_modules())
    checked = 0
    for entry in SCHEDULES["schedules"]:
        for pattern in entry["used_by"]:
            if "downsample" in pattern:  # an unused dropout of the original
                continue
            found = our_schedules(pattern, modules)
            expected = {"bypass_mid": 16, "bypass": 16, "out_combiner": 5}
            layers = 1 if pattern.startswith("encoder_embed") else 16
            assert len(found) == expected.get(pattern.split(".")[-2], layers), pattern
            for schedule in found:
                values = [at(schedule, count) for count in COUNTS]
                assert values == pytest.approx(entry["values"], rel=1e-12, abs=1e-12), pattern
            checked += 1
    assert checked > 50


@pytest.mark.parametrize("name", ["normal", "small", "tiny"])
def test_layers_are_skipped_as_published(name):
    encoder = published(name)
    names = {module: name for name, module in encoder.named_modules()}
    entries = SCHEDULES["layer_skip"][name]
    assert [entry["layer"] for entry in entries] == [names[block] for block in encoder.blocks]
    for entry, block in zip(entries, encoder.blocks, strict=True):
        values = [at(block.bypass.skip_rate, count) for count in COUNTS]
        assert values == pytest.approx(entry["values"], rel=1e-12, abs=1e-12)
        assert block.bypass_mid.skip_rate is None
    assert layer_skip_rates(0, 1, 1, 1, warmup_batches=100.0)[0].points[0] == (50.0, 0.5)


@pytest.mark.parametrize("name", ["normal", "small", "tiny"])
def test_ranges_of_masked_channels(name, monkeypatch):
    """Every channel is masked by none, by one or by both of two draws."""
    encoder = published(name)
    stated = SCHEDULES["feature_mask_ranges"][name]
    x = torch.zeros(2000, 1, 1)
    torch.manual_seed(0)
    for mask, entry in zip(encoder.train()._masks(x), stated, strict=True):
        always, first, both = (
            entry[key] for key in ("always_kept", "kept_if_mask1", "kept_if_mask1_and_mask2")
        )
        if always[1] == entry["dim"]:
            assert mask is None
            continue
        assert mask.shape == (2000, 1, entry["dim"])
        kept = mask[:, 0].mean(dim=0)
        assert torch.all(kept[: always[1]] == 1.0)
        assert torch.all((kept[first[0] : first[1]] - 0.875).abs() < 0.03)
        assert torch.all((kept[both[0] : both[1]] - 0.875**2).abs() < 0.04)
        assert torch.all(mask[..., both[0] :] <= mask[..., first[0] : first[0] + 1])
    assert encoder.eval()._masks(x) == [None] * len(stated)


def test_schedules_are_constant_beyond_their_ends():
    schedule = Schedule((10, 1.0), (20, 3.0), (40, 0.0))
    counts = [-5, 10, 15, 20, 30, 40, 1e9]
    assert [schedule(count) for count in counts] == [1.0, 1.0, 2.0, 3.0, 1.5, 0.0, 0.0]


def test_the_batch_count_changes_what_training_does(encoder):
    early, late = gradients(encoder, count=0), gradients(encoder, count=50000)
    assert differ(early, late)
    assert encoder.training_state()["batch_count"] == 50000
    encoder.eval()
    x = batch()
    with torch.no_grad():
        now = encoder(x, LENGTHS)[0]
        encoder.set_batch_count(0)
        assert torch.equal(encoder(x, LENGTHS)[0], now)


def test_numbers_follow_the_batch_count():
    balancer, dropout = Balancer(probability=Schedule((0, 1.0), (10, 0.0))), SharedDropout()
    source = StepSource([nn.ModuleList([balancer, dropout])])
    for count, active, rate in [(0, True, 0.3), (10000, False, 0.2), (20000, False, 0.1)]:
        source.batch_count = count
        (step,) = source.draw(CPU)
        assert bool(step.active[balancer.chance]) is active
        assert float(step.numbers[dropout.number]) == pytest.approx(rate)


def test_random_choices_come_from_torch_alone(encoder):
    expected = gradients(encoder)
    again = copy.deepcopy(encoder)
    assert_same(gradients(again), expected)
    assert differ(gradients(again, seed=6), expected)


BRANCHES = {
    "attention_skip_rate": ["nonlin_attention.out_proj", "self_attn1.out_proj", "self_attn2.out_proj"],
    "conv_skip_rate": ["conv_module1.out_proj", "conv_module2.out_proj"],
    "ff2_skip_rate": ["feed_forward2.out_proj"],
    "ff3_skip_rate": ["feed_forward3.out_proj"],
}


@pytest.mark.parametrize("rate", BRANCHES)
def test_skipped_branches_have_no_part(encoder, rate):
    layer = encoder.blocks[0]
    x, positions = torch.randn(3, 10, 32), encoder._positions(10, CPU)
    padding = torch.zeros(3, 10, dtype=torch.bool)
    settings = dict.fromkeys(BRANCHES, 0.0)

    def output() -> torch.Tensor:
        for name, value in settings.items():
            setattr(layer, name, value)
        layer.bypass.skip_rate = 0.0
        torch.manual_seed(0)
        return layer(x, positions, padding, step_of(layer, active=False)).detach()

    with_branch = output()
    settings[rate] = 1.0
    without = output()
    assert not torch.allclose(with_branch, without)
    for name in BRANCHES[rate]:
        nn.init.normal_(layer.get_submodule(name).weight)
    assert torch.equal(output(), without)


def test_skipped_layers_hand_on_what_they_get():
    bypass = Bypass(4, skip_rate=1.0).train()
    before, behind = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert torch.equal(bypass(before, behind, step_of(bypass, active=True)), before)
    assert torch.allclose(bypass.eval()(before, behind, None), (before + behind) / 2)


def test_left_out_positions_and_constant_attention(encoder):
    layer = encoder.blocks[0]
    x, positions = torch.randn(3, 10, 32), encoder._positions(10, CPU)
    padding = torch.arange(10) >= torch.tensor([10, 8, 5])[:, None]
    attention = layer.self_attn_weights
    usual = attention(x, positions, padding, step_of(attention, active=False))
    skipped = attention(x, positions, padding, step_of(attention, active=True))
    assert not torch.allclose(usual, skipped)
    nn.init.zeros_(attention.linear_pos.weight)
    assert torch.equal(attention(x, positions, padding, None), skipped)
    seen = []
    layer.nonlin_attention.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    layer(x, positions, padding, step_of(layer, active=True))
    torch.testing.assert_close(seen[0][2, 0], torch.tensor([0.2] * 5 + [0.0] * 5))


def test_dropout_is_the_same_for_all_frames():
    torch.manual_seed(0)
    dropout = SharedDropout(0.25).train()
    y = dropout(torch.ones(50, 4, 200), step_of(dropout, active=True))
    assert torch.equal(y, y[:, :1].expand_as(y))
    assert float(y.mean()) == pytest.approx(1.0, abs=0.02)
    assert float((y == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    ones = torch.ones(2, 4, 200)
    assert torch.equal(dropout.eval()(ones, None), ones)


def test_embeddings_are_dropped_element_by_element(encoder):
    encoder.eval().output_dropout.train().p = 0.5
    y, _ = encoder(batch(), LENGTHS)
    dropped = (y == 0).float()
    assert float(dropped.mean()) == pytest.approx(0.5, abs=0.05)
    assert 0 < float(dropped[0, :, 0].mean()) < 1


def test_whitening_looks_less_often_where_it_is_not_needed(encoder):
    whiten_always(encoder)
    gradients(encoder, count=10000)
    state = encoder.training_state()
    assert {round(value, 6) for value in state["whitening"].tolist()} == {0.025, 0.25}
    # Not in the next pass, so that no GPU has to be waited for, but in the one after it.
    assert torch.all(state["whitening_in_use"] == 0.25)
    gradients(encoder)
    assert torch.equal(encoder.training_state()["whitening_in_use"], state["whitening"])


@pytest.mark.parametrize("restored", ["copy", "state"])
def test_a_restored_run_does_the_same(encoder, restored):
    whiten_always(encoder)
    for step in range(3):
        gradients(encoder, seed=step, count=100.0 * step)
    if restored == "copy":
        twin = copy.deepcopy(encoder)
    else:
        twin = tiny_zipformer().train()
        twin.load_state_dict(encoder.state_dict())
        state = encoder.training_state()
        assert all(isinstance(value, float | torch.Tensor) for value in state.values())
        gradients(encoder, seed=77)  # what was handed out must not change any more
        encoder.load_training_state(state)
        twin.load_training_state(state)
    for step in range(3, 6):
        assert_same(gradients(twin, seed=step), gradients(encoder, seed=step))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(encoder, dtype):
    exact, _ = copy.deepcopy(encoder).eval()(batch(), LENGTHS)
    with torch.autocast("cpu", dtype=dtype):
        rounded, _ = copy.deepcopy(encoder).eval()(batch(), LENGTHS)
        torch.manual_seed(0)
        whiten_always(encoder)
        y, _ = encoder(batch(), LENGTHS)
    assert not torch.equal(rounded.float(), exact)
    assert deviation(rounded.float().detach(), exact.detach()) < 0.05
    y.float().square().mean().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all(), name
    assert y.dtype == torch.float32


def test_a_feed_forward_keeps_its_hidden_layer_once():
    module, x = FeedForward(32, 64).train(), torch.randn(2, 10, 32, requires_grad=True)
    step, kept = step_of(module, active=False), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        module(x, step)
    hidden = [tensor for tensor in kept if tensor.numel() >= 2 * 10 * 64]
    assert len({tensor.data_ptr() for tensor in hidden} - {module.in_proj.weight.data_ptr()}) <= 2
    assert sum(tensor.shape == (2, 10, 64) for tensor in hidden) == 1


def test_idle_modules_keep_nothing(encoder):
    module, x = Balancer().train(), torch.randn(5, 4, requires_grad=True)
    assert module(x, step_of(module, active=False)) is x
    whiten = Whiten(1.0).train()
    assert whiten(x, step_of(whiten, active=False)) is x


@pytest.mark.parametrize("frozen", ["encoder_embed", "encoder"])
def test_frozen_parts(encoder, frozen):
    part = encoder.get_submodule(frozen)
    part.requires_grad_(False).eval()
    encoder(batch(), LENGTHS)[0].sum().backward()
    trained = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, p in encoder.named_parameters() if p.requires_grad}


def test_activation_checkpointing_changes_no_bit():
    torch.manual_seed(0)
    plain = tagger_of(tiny_zipformer()).train()
    saving = copy.deepcopy(plain)
    accelerate(saving, activation_checkpointing=True)
    for tagger in (plain, saving):
        whiten_always(tagger.encoder)
    for seed in range(3):
        assert_same(gradients(saving.encoder, seed), gradients(plain.encoder, seed))
    states = [tagger.encoder.training_state() for tagger in (plain, saving)]
    assert torch.equal(states[0]["whitening"], states[1]["whitening"])


def test_distributed_training_waits_for_no_parameter(encoder, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        expected = gradients(copy.deepcopy(encoder))
        model = DistributedDataParallel(encoder, gradient_as_bucket_view=True, broadcast_buffers=False)
        for _ in range(2):
            torch.manual_seed(5)
            model(batch(5), LENGTHS)[0].square().mean().backward()
            assert_same({n: p.grad.clone() for n, p in encoder.named_parameters()}, expected)
            model.zero_grad()
            encoder.load_training_state(copy.deepcopy(tiny_zipformer()).training_state())
    finally:
        torch.distributed.destroy_process_group()


def test_operations_can_be_counted(encoder):
    gradients(encoder)
    tagger = tagger_of(encoder)
    short, long = (training_flops(tagger, (1, frames, 80)) for frames in (50, 100))
    assert 2 * short < long < 3 * short


@pytest.fixture
def compiler(monkeypatch):
    """Compile without generating code, which takes minutes on a CPU: what is captured is the same."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_module(self, backend="aot_eager"))
    yield
    torch.compiler.reset()


def small_tagger() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"encoder_dim": [16, 24], "encoder_unmasked_dim": 8, "num_encoder_layers": [1, 2]}
    widths = {"query_head_dim": 4, "feedforward_dim": 16, "cnn_module_kernel": 3, "num_heads": 2}
    encoder = Zipformer(80, downsampling_factor=[1, 2], pos_dim=8, **sizes, **widths)
    return tagger_of(encoder).train()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["blocks", "model"])
def test_compiled_models_do_the_same_whatever_was_drawn(compiler, kind):
    plain, fast = small_tagger(), small_tagger()
    accelerate(fast, compile=kind)

    def tagger_gradients(tagger: nn.Module, seed: int) -> dict[str, torch.Tensor]:
        tagger.encoder.set_batch_count(1000.0 * seed)
        torch.manual_seed(seed)
        tagger(batch(seed), LENGTHS).square().mean().backward()
        found = {name: parameter.grad.clone() for name, parameter in tagger.named_parameters()}
        tagger.zero_grad()
        return found

    for tagger in (plain, fast):
        whiten_always(tagger.encoder)
    graphs = []
    for seed in range(6):
        ours, expected = tagger_gradients(fast, seed), tagger_gradients(plain, seed)
        # Sums of gradients are taken in another order: it moves those of keys' biases, 0 in theory, most.
        assert max(deviation(ours[name], expected[name]) for name in ours) < 1e-3
        if kind == "blocks":
            assert_same(ours, expected)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[-1]  # neither batch counts nor decisions make others
    states = [tagger.encoder.training_state() for tagger in (plain, fast)]
    assert torch.equal(states[0]["whitening"], states[1]["whitening"])
    x = batch()
    with torch.no_grad():
        torch.testing.assert_close(fast.eval()(x, LENGTHS), plain.eval()(x, LENGTHS))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["l", "r"])
def test_a_compiled_activation_has_a_gradient(kind, dtype):
    """torch 2.11 loses it where the function ends with a conversion that converts nothing."""
    module = nn.Sequential(nn.Linear(3, 3), activations.Swoosh(kind), nn.Linear(3, 3)).to(dtype).train()
    x = torch.randn(4, 3, dtype=dtype)
    module(x).sum().backward()
    expected = module[0].weight.grad.clone()
    module.zero_grad()
    torch.compile(module, backend="aot_eager")(x).sum().backward()
    torch.testing.assert_close(module[0].weight.grad, expected)
    torch.compiler.reset()


def test_the_feature_masks_can_be_seen_in_the_rate(monkeypatch, encoder):
    monkeypatch.setattr(encoder_module, "FEATURE_MASK_RATE", 1.0)
    for mask, unmasked in zip(encoder._masks(torch.zeros(2, 1, 1)), encoder.unmasked_dims, strict=True):
        assert mask[0].sum() == unmasked
